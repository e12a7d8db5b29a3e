//! A `tokenizer.json` and a text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trimtab_fuzz::{folder, parts, quiet_about_caught_panics};
use trimtab_io::Tokenizer;

fuzz_target!(init: quiet_about_caught_panics(), |input: &[u8]| {
    let [json, text] = parts(input);
    let dir = folder(&[("tokenizer.json", json)]);
    let Ok(tokenizer) = Tokenizer::from_file(dir.path().join("tokenizer.json")) else { return };
    let text = String::from_utf8_lossy(text);
    for special in [false, true] {
        if let Ok(ids) = tokenizer.encode(&text, special) {
            let _ = tokenizer.decode(&ids, special);
        }
        if let Ok(batch) = tokenizer.encode_batch(&[&text, "", "a"], special, 5) {
            assert!(batch.iter().all(|ids| ids.len() <= 5));
        }
    }
    let _ = tokenizer.decode(&[0, 1, 2, u32::MAX], true);
});
