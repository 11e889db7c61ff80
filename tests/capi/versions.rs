//! Programs and libraries of different versions.

use super::*;

/// Programs and libraries of different versions: a shorter struct leaves out what is new, a longer one may only have zeros there.
#[test]
fn structs_of_other_versions_are_understood() {
    let mut cpu = null_mut();
    let mut with = |options: &[usize; 8]| {
        let status = call!(doge_cpu_new(options.as_ptr().cast(), &mut cpu));
        let threads = call!(doge_cpu_threads(cpu));
        call!(doge_cpu_free(cpu));
        cpu = null_mut();
        (status, threads)
    };
    assert_eq!(with(&[64, 3, 0, 0, 0, 0, 0, 0]), (DogeStatus::Ok, 3));
    assert_eq!(with(&[16, 3, 7, 7, 7, 7, 7, 7]), (DogeStatus::Ok, 3), "what is beyond an older struct is not looked at");
    assert_eq!(with(&[64, 3, 0, 0, 0, 0, 0, 1]).0, DogeStatus::BadArgument);
    assert_eq!(with(&[0, 3, 0, 0, 0, 0, 0, 0]).0, DogeStatus::BadArgument);
    assert_eq!(with(&[1 << 40, 3, 0, 0, 0, 0, 0, 0]).0, DogeStatus::BadArgument);
}

/// A program of before stop strings: what stands beyond its struct is not looked at.
#[test]
fn options_without_stop_strings_are_understood() {
    let doge = Doge::new();
    let struct_size = std::mem::offset_of!(DogeGenerateOptions, stop_strings);
    let beyond = std::ptr::dangling();
    let options = DogeGenerateOptions { struct_size, stop_strings: beyond, n_stop_strings: 9, ..zeros() };
    let mut ids = [0; 8];
    let (prompt, n) = (PROMPT.as_ptr(), PROMPT.len());
    let status = call!(doge_generate(doge.session, prompt, n, &options, ids.as_mut_ptr(), 8, null_mut()));
    assert_eq!((status, ids), (DogeStatus::Ok, ANSWER));
}
