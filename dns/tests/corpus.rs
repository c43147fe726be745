//! Every input of the fuzzer's corpora, through the functions the fuzzer calls.

use std::fs;
use std::path::Path;

fn replay(target: &str, least: usize, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is part of the repository") {
        let path = entry.expect("readable").path();
        let bytes = fs::read(&path).expect("readable");
        println!("{} ({} octets)", path.display(), bytes.len());
        run(&bytes);
        count += 1;
    }
    assert!(count >= least, "{count} inputs in {}", folder.display());
}

#[test]
fn the_corpus_of_questions_does_no_harm() {
    replay("dns_question", 15, portolan_dns::fuzzing::question);
}

#[test]
fn the_corpus_of_upstream_answers_does_no_harm() {
    replay("dns_upstream_answer", 25, portolan_dns::fuzzing::upstream_answer);
}
