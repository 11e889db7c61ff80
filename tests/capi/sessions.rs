//! What holds for every call with a session: its message, its flag, and memory that is apart.

use super::*;

/// A failure leaves its message with the session, whatever it was that was wrong.
#[test]
fn a_session_keeps_the_message_of_its_last_failure() {
    let doge = Doge::new();
    let (session, fork) = (doge.session, made(|out| call!(doge_session_fork(doge.session, out))));
    let error = |session: *const DogeSession| text(call!(doge_session_error(session)));
    let failed = |word: &str, sessions: &[*mut DogeSession], call: &dyn Fn() -> DogeStatus| {
        for &session in sessions {
            assert_eq!(call!(doge_session_feed(session, [4096].as_ptr(), 1)), DogeStatus::TokenOutOfRange);
        }
        assert_ne!(call(), DogeStatus::Ok, "{word}");
        assert!(last_error().contains(word), "{word}: {}", last_error());
        sessions.iter().for_each(|&session| assert_eq!(error(session), last_error(), "{word}"));
    };
    let (mut n, one, stale) = (0, [1].as_ptr(), DogeGenerateOptions { struct_size: 1, ..zeros() });
    let n: *mut usize = &mut n;
    failed("ids is NULL", &[session], &|| call!(doge_session_feed(session, null(), 1)));
    failed("cannot stand there", &[session], &|| call!(doge_session_feed(session, one, usize::MAX)));
    failed("ids is NULL", &[session], &|| call!(doge_session_score(session, null(), 1, [0.0].as_mut_ptr())));
    failed("logprobs is NULL", &[session], &|| call!(doge_session_score(session, one, 1, null_mut())));
    failed("logits or n is NULL", &[session], &|| call!(doge_session_logits(session, null_mut(), n)));
    failed("no logits", &[session], &|| call!(doge_session_logits(session, &mut null(), n)));
    failed("out is NULL", &[session], &|| call!(doge_session_fork(session, null_mut())));
    failed("n is NULL", &[session], &|| call!(doge_session_save(session, null_mut(), 0, null_mut())));
    failed("the buffer holds 0", &[session], &|| call!(doge_session_save(session, null_mut(), 0, n)));
    let generate = |prompt: *const u32, options, capacity| {
        call!(doge_generate(session, prompt, 1, options, null_mut(), capacity, null_mut()))
    };
    failed("prompt is NULL", &[session], &|| generate(null(), null(), 0));
    failed("struct_size is 1", &[session], &|| generate(one, &stale, 0));
    failed("ids is NULL", &[session], &|| generate(one, null(), 9));

    // In a batch each of them keeps it.
    let batch = |cpu: *const DogeCpu, sessions: &[*mut DogeSession], ids: *const u32| {
        call!(doge_batch_feed(cpu, sessions.as_ptr(), ids, sessions.len()))
    };
    let both = [session, fork];
    failed("cpu is NULL", &both, &|| batch(null(), &both, [1, 1].as_ptr()));
    failed("ids is NULL", &both, &|| batch(doge.cpu, &both, null()));
    failed("token id 9999", &both, &|| batch(doge.cpu, &both, [1, 9999].as_ptr()));
    failed("a session is NULL", &both, &|| batch(doge.cpu, &[session, null_mut(), fork], [1; 3].as_ptr()));
    failed("another thread", &both, &|| batch(doge.cpu, &[session, session, fork], [1; 3].as_ptr()));
    assert_eq!(batch(doge.cpu, &both, [1, 1].as_ptr()), DogeStatus::Ok);
    call!(doge_session_free(fork));
}

/// The flag reaches whatever feeds a session, and what was cancelled goes on as if nothing had been.
#[test]
fn a_cancelled_session_takes_nothing_in() {
    let doge = Doge::new();
    assert_eq!(doge.feed(&PROMPT), DogeStatus::Ok);
    let fork = made(|out| call!(doge_session_fork(doge.session, out)));
    let batch = |sessions: [*mut DogeSession; 2]| call!(doge_batch_feed(doge.cpu, sessions.as_ptr(), [203, 203].as_ptr(), 2));
    let before = logits(doge.session);
    call!(doge_session_cancel(fork, 1));
    for sessions in [[doge.session, fork], [fork, doge.session]] {
        assert_eq!(batch(sessions), DogeStatus::Cancelled);
        let at = usize::from(sessions[1] == fork);
        assert_eq!(last_error(), format!("session {at} is cancelled; no session has taken anything in"));
        for session in sessions {
            assert_eq!((call!(doge_session_tokens(session)), logits(session)), (PROMPT.len(), before.clone()));
        }
    }
    let mut result = DogeGenerated { struct_size: size_of::<DogeGenerated>(), ..zeros() };
    let (prompt, n) = (PROMPT.as_ptr(), PROMPT.len());
    assert_eq!(call!(doge_generate(fork, prompt, n, null(), [0].as_mut_ptr(), 1, &mut result)), DogeStatus::Ok);
    assert_eq!((result.n_tokens, result.finish), (0, DogeFinish::Cancelled as i32));
    assert_eq!(call!(doge_session_feed(fork, [203].as_ptr(), 1)), DogeStatus::Cancelled);

    call!(doge_session_cancel(fork, 0));
    assert_eq!(batch([doge.session, fork]), DogeStatus::Ok, "{}", last_error());
    assert_eq!((call!(doge_session_tokens(fork)), logits(fork)), (PROMPT.len() + 1, logits(doge.session)));
    call!(doge_session_free(fork));
}

/// What is read is not written meanwhile; side by side, and where there is nothing to read or write, is apart.
#[test]
fn arrays_that_overlap_are_refused() {
    let doge = Doge::new();
    let default = DogeGenerateOptions { struct_size: size_of::<DogeGenerateOptions>(), max_new_tokens: 2, ..zeros() };
    let mut memory = [&[0; 9][..], &PROMPT, &[0; 9]].concat();
    let start: *mut u32 = memory.as_mut_ptr();
    // SAFETY: all places are inside `memory`.
    let at = |place: usize| unsafe { start.add(place) };
    let generate = |ids: *mut u32, capacity: usize, options: DogeGenerateOptions| {
        call!(doge_generate(doge.session, at(9), PROMPT.len(), &options, ids, capacity, null_mut()))
    };
    for (ids, capacity) in [(9, 7), (8, 2), (15, 2), (0, 25), (11, 2)] {
        assert_eq!(generate(at(ids), capacity, default), DogeStatus::BadArgument, "{ids}");
        assert_eq!(last_error(), "ids and prompt overlap; give each memory of its own");
    }
    let ends = DogeGenerateOptions { eos_token_ids: at(3), n_eos_token_ids: 2, ..default };
    assert_eq!(generate(at(4), 4, ends), DogeStatus::BadArgument);
    assert_eq!(last_error(), "ids and eos_token_ids overlap; give each memory of its own");
    for (ids, logprobs) in [(9, 9), (9, 11), (11, 9)] {
        let status = call!(doge_session_score(doge.session, at(ids), 3, at(logprobs).cast()));
        assert_eq!(
            (status, last_error().contains("logprobs and ids overlap")),
            (DogeStatus::BadArgument, true),
            "{}",
            last_error()
        );
    }
    assert_eq!(call!(doge_session_tokens(doge.session)), 0);

    let none = DogeGenerateOptions { eos_token_ids: at(7), n_eos_token_ids: 0, ..default };
    assert_eq!(generate(at(7), 2, none), DogeStatus::Ok, "{}", last_error());
    assert_eq!(generate(at(10), 0, default), DogeStatus::BadArgument, "fed already, but not for its memory");
    assert!(!last_error().contains("overlap"), "{}", last_error());
    assert_eq!(call!(doge_session_score(doge.session, at(9), 2, at(11).cast())), DogeStatus::Ok);
    assert_eq!(memory[7..9], ANSWER[..2]);
}
