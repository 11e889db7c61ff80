//! The generation loop: why it ends, what it counts, and that an earlier turn need not be fed again.
#![cfg(all(feature = "text", feature = "embedded-model"))]

use std::{
    ops::ControlFlow,
    sync::{atomic::AtomicBool, atomic::Ordering, Arc},
};

use doge_engine::{
    embedded,
    model::{LoadOptions, Model, Session, SessionOptions},
    ops::Cpu,
    pool::Pool,
    Error, Finish, Generation, Kernels, Sampler, SamplingSettings, StopStrings, TextGeneration, Until,
};

/// Begin of text, `ROMEO.`, newline, and what the model says to that.
const PROMPT: [u32; 7] = [0, 597, 49, 41, 51, 18, 203];
const ANSWER: [u32; 8] = [203, 63, 529, 225, 2319, 16, 225, 2319];

fn session(ctx_size: usize) -> Session {
    let model = Model::new(embedded::checkpoint(&LoadOptions::default()).unwrap());
    let cpu = Cpu::new(Kernels::detect().unwrap(), Arc::new(Pool::new(1).unwrap()));
    Session::new(&model, &cpu, SessionOptions::default().ctx_size(ctx_size)).unwrap()
}

fn sampler(settings: SamplingSettings) -> Sampler {
    Sampler::new(settings).unwrap()
}

fn greedy() -> Sampler {
    sampler(SamplingSettings::default())
}

#[test]
fn it_ends_for_each_reason() {
    let cancel = AtomicBool::new(true);
    let until = Until::default().max_new_tokens(8);
    let cases = [
        (usize::MAX, until, Finish::Length, 8),
        (usize::MAX, until.max_new_tokens(0), Finish::Length, 0),
        (usize::MAX, until.eos_token_ids(&[9, 225]), Finish::Eos, 4),
        (usize::MAX, until.cancel(&cancel), Finish::Cancelled, 0),
        (9, until, Finish::ContextFull, 3),
    ];
    for (ctx_size, until, finish, tokens) in cases {
        let (mut session, mut sampler) = (session(ctx_size), greedy());
        let mut generation = Generation::new(&mut session, &mut sampler, &PROMPT, until).unwrap();
        let ids: Vec<u32> = generation.by_ref().map(Result::unwrap).collect();
        assert_eq!(ids, ANSWER[..tokens], "{finish:?}");
        assert_eq!((generation.finish(), generation.ids()), (Some(finish), ids.as_slice()));
        assert!(generation.next().is_none());
        let timings = generation.timings();
        let fed = (timings.prefill_tokens, timings.decode_tokens);
        assert_eq!(fed, if tokens == 0 { (0, 0) } else { (7, tokens - 1) }, "{finish:?}");
    }
}

#[test]
fn it_can_be_cancelled_between_tokens() {
    let cancel = AtomicBool::new(false);
    let (mut session, mut sampler) = (session(usize::MAX), greedy());
    let until = Until::default().max_new_tokens(usize::MAX).cancel(&cancel);
    let mut generation = Generation::new(&mut session, &mut sampler, &PROMPT, until).unwrap();
    generation.by_ref().take(3).for_each(|id| _ = id.unwrap());
    cancel.store(true, Ordering::Relaxed);
    assert!(generation.next().is_none());
    assert_eq!((generation.finish(), generation.ids()), (Some(Finish::Cancelled), &ANSWER[..3]));
}

/// Ctrl-C while a prompt is fed ends the generation there and then, not after the prompt.
#[test]
fn it_can_be_cancelled_in_the_prompt() {
    let cancel = AtomicBool::new(false);
    let (mut session, mut sampler) = (session(usize::MAX), greedy());
    let prompt = vec![3; 20_000];
    let until = Until::default().max_new_tokens(1).cancel(&cancel);
    let mut generation = Generation::new(&mut session, &mut sampler, &prompt, until).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            cancel.store(true, Ordering::Relaxed);
        });
        assert!(generation.next().is_none());
    });
    assert_eq!((generation.finish(), generation.ids()), (Some(Finish::Cancelled), &[][..]));
    let taken = generation.timings().prefill_tokens;
    drop(generation);
    assert!(taken < prompt.len() && taken == session.tokens(), "{taken} tokens were fed");
}

#[test]
fn a_fork_generates_from_the_end_of_the_prompt() {
    let mut session = session(usize::MAX);
    session.feed(&PROMPT).unwrap();
    for _ in 0..2 {
        let (mut fork, mut sampler) = (session.fork().unwrap(), greedy());
        let until = Until::default().max_new_tokens(8);
        let mut generation = Generation::new(&mut fork, &mut sampler, &PROMPT, until).unwrap();
        let ids: Vec<u32> = generation.by_ref().map(Result::unwrap).collect();
        assert_eq!((ids.as_slice(), generation.timings().prefill_tokens), (&ANSWER[..], 0));
    }
}

#[test]
fn a_callback_may_end_it() {
    let (mut session, mut sampler) = (session(usize::MAX), greedy());
    let mut generation = Generation::new(&mut session, &mut sampler, &PROMPT, Until::default()).unwrap();
    let mut ids = Vec::new();
    let stream = generation.stream(|id| {
        ids.push(id);
        if ids.len() < 5 {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    stream.unwrap();
    assert_eq!((ids.as_slice(), generation.finish()), (&ANSWER[..5], Some(Finish::Cancelled)));
}

#[test]
fn a_hook_and_log_probabilities_see_the_models_own_logits() {
    let run = |forbid: Option<u32>| {
        let (mut session, mut sampler) = (session(usize::MAX), greedy());
        let mut calls = 0;
        let until = Until::default().max_new_tokens(4);
        let generation = Generation::new(&mut session, &mut sampler, &PROMPT, until).unwrap();
        let mut generation = generation.with_logprobs(2).with_logits_hook(|logits, prompt, generated| {
            assert_eq!((prompt, generated.len()), (&PROMPT[..], calls));
            calls += 1;
            forbid.into_iter().for_each(|id| logits[id as usize] = f32::NEG_INFINITY);
        });
        let ids: Vec<u32> = generation.by_ref().map(Result::unwrap).collect();
        let logprobs = generation.logprobs().to_vec();
        assert_eq!(ids, logprobs.iter().map(|token| token.id).collect::<Vec<_>>());
        (ids, logprobs)
    };
    let (ids, logprobs) = run(None);
    assert_eq!(ids, ANSWER[..4]);
    assert!(logprobs.iter().all(|token| token.top[0].id == token.id && token.top[0].logprob == token.logprob));
    let (other, forbidden) = run(Some(ANSWER[0]));
    assert_ne!(other[0], ANSWER[0]);
    // The hook shapes the choice, not what the model thought.
    assert_eq!(forbidden[0].top, logprobs[0].top);
    assert!(forbidden[0].logprob < logprobs[0].logprob);
    // And the same figures come from scoring.
    let mut session = session(usize::MAX);
    let scores = session.score(&[&PROMPT[..], &ids].concat(), 2).unwrap();
    assert_eq!(scores[PROMPT.len()..].iter().flatten().cloned().collect::<Vec<_>>(), logprobs);
}

#[test]
fn a_session_goes_on_where_it_was() {
    let (mut session, mut sampler) = (session(usize::MAX), greedy());
    let until = |max_new_tokens| Until::default().max_new_tokens(max_new_tokens);
    let mut ids = PROMPT.to_vec();
    for tokens in [3, 1, 4] {
        let mut generation = Generation::new(&mut session, &mut sampler, &ids, until(tokens)).unwrap();
        generation.by_ref().for_each(|id| _ = id.unwrap());
        let (generated, _, timings) = generation.into_parts();
        // After the first turn only the token chosen last is new.
        assert_eq!(timings.prefill_tokens, if ids.len() == PROMPT.len() { 7 } else { 1 });
        ids.extend(generated);
    }
    assert_eq!(ids[7..], ANSWER);
}

#[test]
fn what_cannot_begin_is_refused() {
    let (mut session, mut sampler) = (session(6), greedy());
    let until = Until::default().max_new_tokens(1);
    let refused = |session: &mut Session, sampler: &mut Sampler, prompt: &[u32]| {
        Generation::new(session, sampler, prompt, until).map(|_| ()).unwrap_err()
    };
    assert!(matches!(refused(&mut session, &mut sampler, &[]), Error::BadArgument { what: "prompt", .. }));
    assert!(matches!(refused(&mut session, &mut sampler, &PROMPT), Error::ContextFull { limit: 6 }));
    // An error inside comes out once, and is the end.
    let mut generation = Generation::new(&mut session, &mut sampler, &[4096], until).unwrap();
    assert!(matches!(generation.next(), Some(Err(Error::TokenOutOfRange { id: 4096, vocab_size: 4096 }))));
    assert!(generation.next().is_none() && generation.finish().is_none());
}

/// Greedy decoding takes a short cut where the logits are used as they are. A bias of nothing goes the long way.
#[test]
fn the_short_cut_of_greedy_decoding_changes_nothing() {
    let biased = SamplingSettings::default().logit_bias(vec![(5, 0.0)]);
    let ids = |mut sampler: Sampler| {
        let mut session = session(usize::MAX);
        let until = Until::default().max_new_tokens(60);
        Generation::new(&mut session, &mut sampler, &PROMPT, until).unwrap().map(Result::unwrap).collect::<Vec<_>>()
    };
    assert_eq!(ids(greedy()), ids(sampler(biased)));
}

#[test]
fn every_penalty_acts_in_greedy_decoding() {
    let ids = |settings: SamplingSettings| {
        let (mut session, mut sampler) = (session(usize::MAX), sampler(settings));
        let until = Until::default().max_new_tokens(60);
        Generation::new(&mut session, &mut sampler, &PROMPT, until).unwrap().map(Result::unwrap).collect::<Vec<_>>()
    };
    let plain = SamplingSettings::default;
    for settings in [plain().repetition_penalty(1.5), plain().presence_penalty(5.0), plain().frequency_penalty(5.0)] {
        assert_ne!(ids(plain()), ids(settings.clone()), "{settings:?}");
    }
}

#[test]
fn a_prompt_shorter_than_the_session_is_refused() {
    let (mut session, mut sampler) = (session(usize::MAX), greedy());
    session.feed(&PROMPT).unwrap();
    let shorter = Generation::new(&mut session, &mut sampler, &PROMPT[..6], Until::default()).map(drop);
    assert!(matches!(shorter, Err(Error::BadArgument { what: "prompt", .. })));
}

#[test]
fn a_full_session_still_gives_the_token_it_has_logits_for() {
    let (mut session, mut sampler) = (session(PROMPT.len()), greedy());
    session.feed(&PROMPT).unwrap();
    let mut generation = Generation::new(&mut session, &mut sampler, &PROMPT, Until::default()).unwrap();
    let ids: Vec<u32> = generation.by_ref().map(Result::unwrap).collect();
    assert_eq!((ids.as_slice(), generation.finish()), (&ANSWER[..1], Some(Finish::ContextFull)));
}

#[test]
fn special_tokens_add_no_text() {
    let tokenizer = embedded::tokenizer().unwrap();
    let (name, special) = tokenizer.special_tokens().pop().unwrap();
    let forced = SamplingSettings::default().logit_bias(vec![(special, 1e9)]);
    let (mut session, mut sampler) = (session(usize::MAX), sampler(forced));
    let generation = Generation::new(&mut session, &mut sampler, &PROMPT, Until::default().max_new_tokens(3)).unwrap();
    let mut generation = TextGeneration::new(generation, &tokenizer, StopStrings::default());
    let text: Vec<String> = generation.by_ref().map(Result::unwrap).collect();
    assert_eq!((text.concat().as_str(), generation.ids()), ("", &[special; 3][..]), "{name}");
}

#[test]
fn a_callback_that_breaks_is_not_called_again() {
    let tokenizer = embedded::tokenizer().unwrap();
    let (mut session, mut sampler) = (session(usize::MAX), greedy());
    let generation = Generation::new(&mut session, &mut sampler, &PROMPT, Until::default().max_new_tokens(8)).unwrap();
    // The end of ANTONIO is held back: it could begin the stop string.
    let stops = StopStrings::new(vec!["NIO and more".into()]).unwrap();
    let mut generation = TextGeneration::new(generation, &tokenizer, stops);
    let mut text = String::new();
    let stream = generation.stream(|piece| {
        text += piece;
        if text.ends_with("ANTO") {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    stream.unwrap();
    assert_eq!((text.as_str(), generation.finish()), ("\n[Enter ANTO", Some(Finish::Cancelled)));
}

#[test]
fn pieces_make_the_text_and_stop_strings_end_it() {
    let tokenizer = embedded::tokenizer().unwrap();
    let text = |eos: &[u32], stops: &[&str]| {
        let (mut session, mut sampler) = (session(usize::MAX), greedy());
        let until = Until::default().max_new_tokens(8).eos_token_ids(eos);
        let generation = Generation::new(&mut session, &mut sampler, &PROMPT, until).unwrap();
        let stops = StopStrings::new(stops.iter().map(|s| s.to_string()).collect()).unwrap();
        let mut generation = TextGeneration::new(generation, &tokenizer, stops);
        let pieces: Vec<String> = generation.by_ref().map(Result::unwrap).collect();
        assert!(pieces.iter().all(|piece| !piece.is_empty()));
        (pieces.concat(), generation.ids().len(), generation.finish().unwrap())
    };
    let all = "\n[Enter ANTONIO, ANTONIO";
    assert_eq!(text(&[], &[]), (all.into(), 8, Finish::Length));
    // The end of what was said could begin a stop string: it comes out when nothing follows.
    assert_eq!(text(&[], &["NIO and more"]), (all.into(), 8, Finish::Length));
    // A token that ends the text adds nothing to it, special or not.
    assert_eq!(text(&[16], &[]), ("\n[Enter ANTONIO".into(), 6, Finish::Eos));
    assert_eq!(text(&[], &["ter AN", "]"]), ("\n[En".into(), 5, Finish::StopString));
}

/// The text of a generation whose token after the first two is `id`, or an error without one.
fn text_with(id: Option<u32>, stops: &[&str]) -> (Vec<Result<String, Error>>, Vec<u32>, Option<Finish>) {
    let (mut session, mut sampler, tokenizer) = (session(usize::MAX), greedy(), embedded::tokenizer().unwrap());
    let until = Until::default().max_new_tokens(8);
    let generation = Generation::new(&mut session, &mut sampler, &PROMPT, until).unwrap();
    let generation = generation.with_logits_hook(|logits, _, generated| {
        if generated.len() == 2 {
            logits.fill(f32::NEG_INFINITY);
            id.into_iter().for_each(|id| logits[id as usize] = 0.0);
        }
    });
    let stops = StopStrings::new(stops.iter().map(|s| s.to_string()).collect()).unwrap();
    let mut generation = TextGeneration::new(generation, &tokenizer, stops);
    let pieces = generation.by_ref().collect();
    let (ids, finish, _) = generation.into_parts();
    (pieces, ids, finish)
}

#[test]
fn a_stop_string_may_name_a_special_token() {
    for (stops, finish, tokens) in [
        (["[Exit", "<|start_header_id|>"], Finish::StopString, 3),
        (["[Exit", "<|start_header_id"], Finish::Length, 8), // no token's name
    ] {
        let (pieces, ids, ended) = text_with(Some(2), &stops);
        let text: String = pieces.into_iter().map(Result::unwrap).collect();
        assert_eq!((&ids[..3], ids.len(), ended), (&[203, 63, 2][..], tokens, Some(finish)));
        assert!(if tokens == 3 { text == "\n[" } else { text.len() > 2 }, "{text:?}");
    }
    // What the name of a plain token stands for is text as any other.
    let (pieces, ids, ended) = text_with(Some(529), &["Enter"]);
    assert_eq!((pieces.into_iter().map(Result::unwrap).collect::<String>().as_str(), ids.len()), ("\n[", 3));
    assert_eq!(ended, Some(Finish::StopString));
}

#[test]
fn text_that_was_held_back_comes_before_an_error() {
    let (mut pieces, ids, finish) = text_with(None, &["[Exit"]);
    assert!(matches!(pieces.pop(), Some(Err(Error::NonFiniteValue { .. }))));
    assert_eq!(pieces.into_iter().map(Result::unwrap).collect::<Vec<_>>(), ["\n", "["]);
    assert_eq!((ids, finish), (ANSWER[..2].to_vec(), None));
}
