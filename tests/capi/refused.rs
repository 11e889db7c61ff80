//! What is wrong, NULL or busy is refused by name.

use super::*;

#[test]
fn what_is_wrong_is_refused_by_name() {
    let doge = Doge::new();
    assert_eq!(doge.feed(&[4096]), DogeStatus::TokenOutOfRange);
    assert_eq!(last_error(), "token id 4096 is outside the vocabulary of 4096");
    assert_eq!(text(call!(doge_session_error(doge.session))), last_error());
    assert_eq!(doge.feed(&[]), DogeStatus::BadArgument);
    let (mut at, mut n) = (null(), 0);
    assert_eq!(call!(doge_session_logits(doge.session, &mut at, &mut n)), DogeStatus::BadArgument);
    // An error belongs to the thread that met it.
    assert_eq!(std::thread::spawn(last_error).join().unwrap(), "");

    call!(doge_session_cancel(doge.session, 1));
    assert_eq!(doge.feed(&PROMPT), DogeStatus::Cancelled);
    call!(doge_session_cancel(doge.session, 0));
    assert_eq!(doge.feed(&PROMPT), DogeStatus::Ok);

    let model = |path: *const c_char| {
        let mut out = std::ptr::dangling_mut();
        let status = call!(doge_model_load(path, null(), &mut out));
        assert!(out.is_null());
        status
    };
    assert_eq!(model(c"/no/such/folder".as_ptr()), DogeStatus::BadModel);
    assert_eq!(model(c"\xff".as_ptr()), DogeStatus::BadArgument);
    assert_eq!(model(null()), DogeStatus::BadArgument);

    let mut cpu = null_mut();
    for (options, status) in [
        (DogeCpuOptions { threads: usize::MAX, ..zeros() }, DogeStatus::BadArgument),
        (DogeCpuOptions { isa: c"sse9".as_ptr(), ..zeros() }, DogeStatus::BadArgument),
    ] {
        let options = DogeCpuOptions { struct_size: size_of::<DogeCpuOptions>(), ..options };
        assert_eq!(call!(doge_cpu_new(&options, &mut cpu)), status);
    }
    let stop = |text: *const c_char, tokenizer: *const DogeTokenizer| {
        let struct_size = size_of::<DogeGenerateOptions>();
        let options = DogeGenerateOptions { struct_size, tokenizer, stop_strings: &text, n_stop_strings: 1, ..zeros() };
        call!(doge_generate(doge.session, PROMPT.as_ptr(), PROMPT.len(), &options, [0; 4].as_mut_ptr(), 4, null_mut()))
    };
    let tokenizer = made(|out| call!(doge_tokenizer_embedded(out)));
    for text in [null(), c"".as_ptr(), c"\xff".as_ptr()] {
        assert_eq!(stop(text, tokenizer), DogeStatus::BadArgument);
        assert!(last_error().contains("stop"), "{}", last_error());
    }
    assert_eq!(stop(c"a".as_ptr(), null()), DogeStatus::BadArgument, "text needs a tokenizer");
    call!(doge_tokenizer_free(tokenizer));
    let names = (0..=13).map(|status| text(doge_status_name(status))).collect::<std::collections::BTreeSet<_>>();
    assert_eq!((names.len(), text(doge_status_name(99)).as_str()), (14, "unknown"));
}

#[test]
fn null_is_refused_or_nothing() {
    call!(doge_cpu_free(null_mut()));
    call!(doge_model_free(null_mut()));
    call!(doge_session_free(null_mut()));
    call!(doge_tokenizer_free(null_mut()));
    call!(doge_session_cancel(null(), 1));
    assert_eq!((call!(doge_session_tokens(null())), call!(doge_cpu_threads(null()))), (0, 0));
    assert_eq!((text(call!(doge_cpu_isa(null()))), text(call!(doge_session_error(null())))), Default::default());

    let doge = Doge::new();
    let (mut session, mut n, mut at) = (null_mut(), 0, null());
    let refused = [
        call!(doge_cpu_new(null(), null_mut())),
        call!(doge_model_embedded(null(), null_mut())),
        call!(doge_model_info(doge.model, null_mut())),
        call!(doge_model_info(null(), null_mut())),
        call!(doge_session_new(null(), doge.cpu, null(), &mut session)),
        call!(doge_session_new(doge.model, null(), null(), &mut session)),
        call!(doge_session_new(doge.model, doge.cpu, null(), null_mut())),
        call!(doge_session_feed(null_mut(), [1].as_ptr(), 1)),
        call!(doge_session_feed(doge.session, null(), 1)),
        call!(doge_session_score(doge.session, [1].as_ptr(), 1, null_mut())),
        call!(doge_session_logits(doge.session, null_mut(), &mut n)),
        call!(doge_session_logits(doge.session, &mut at, null_mut())),
        call!(doge_session_fork(null(), &mut session)),
        call!(doge_session_save(doge.session, null_mut(), 0, null_mut())),
        call!(doge_session_save(doge.session, null_mut(), usize::MAX, &mut n)),
        call!(doge_session_load(doge.model, doge.cpu, null(), null(), 9, &mut session)),
        call!(doge_batch_feed(doge.cpu, null(), null(), 0)),
        call!(doge_batch_feed(doge.cpu, [null_mut()].as_ptr(), [1].as_ptr(), 1)),
        call!(doge_generate(doge.session, null(), 1, null(), null_mut(), 0, null_mut())),
        call!(doge_generate(doge.session, [0].as_ptr(), 1, null(), null_mut(), 9, null_mut())),
        call!(doge_tokenizer_load(null(), null_mut())),
        call!(doge_kernels(null(), null_mut())),
    ];
    assert_eq!(refused, [DogeStatus::BadArgument; 22]);
    assert!(session.is_null());
}

/// Two threads at one session: one of them is told, and nothing breaks.
#[test]
fn a_session_in_use_is_busy() {
    struct Everywhere(*mut DogeSession);
    // SAFETY: what this test is about.
    unsafe impl Sync for Everywhere {}
    let doge = Doge::new();
    let (session, ids) = (Everywhere(doge.session), vec![3; 20_000]);
    std::thread::scope(|scope| {
        let session = &session;
        let feed = move || call!(doge_session_feed({ session }.0, ids.as_ptr(), ids.len()));
        let feeding = scope.spawn(move || std::iter::repeat_with(feed).find(|status| *status != DogeStatus::Busy));
        while !feeding.is_finished() {
            match call!(doge_session_feed(session.0, [1].as_ptr(), 1)) {
                DogeStatus::Busy => {
                    call!(doge_session_cancel(session.0, 1));
                    break;
                }
                status => assert!(matches!(status, DogeStatus::Ok | DogeStatus::Cancelled), "{status:?}"),
            }
        }
        assert_eq!(feeding.join().unwrap(), Some(DogeStatus::Cancelled));
    });
}
