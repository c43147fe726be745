//! Every input of the fuzzer's corpus, through the function the fuzzer calls.

use std::fs;
use std::path::Path;

#[test]
fn the_corpus_of_the_fuzzer_does_no_harm() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/dns_question");
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is part of the repository") {
        let path = entry.expect("readable").path();
        let bytes = fs::read(&path).expect("readable");
        println!("{} ({} octets)", path.display(), bytes.len());
        portolan_dns::fuzzing::question(&bytes);
        count += 1;
    }
    assert!(count >= 15, "{count} inputs in {}", folder.display());
}
