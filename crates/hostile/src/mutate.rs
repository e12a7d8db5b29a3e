//! Damage.

use crate::Draws;

/// Characters that mean something in JSON, TOML, globs and shapes.
const SIGNS: &[u8] = b"0123456789-+.e\"'[]{}(),:=*#\\_ \n";
/// Numbers that are at the edge of something.
const EDGES: [u64; 8] = [0, 1, 31, 0x7fff_ffff, 1 << 32, 1 << 40, 1 << 62, u64::MAX];

/// One to four changes: a bit, a byte, a sign, a number, a deletion, an insertion, a doubled or a lost stretch.
pub fn mutate(bytes: &[u8], draws: &mut Draws) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..=draws.below(4) {
        if out.is_empty() {
            break;
        }
        let i = draws.below(out.len());
        let end = (i + 1 + draws.below(12)).min(out.len());
        match draws.below(9) {
            0 => out[i] ^= 1 << draws.below(8),
            1 => out[i] = draws.below(256) as u8,
            2 => out[i] = SIGNS[draws.below(SIGNS.len())],
            3 => drop(out.remove(i)),
            4 => out.insert(i, draws.below(256) as u8),
            5 => {
                let part = out[i..end].to_vec();
                out.splice(i..i, part);
            }
            6 => drop(out.drain(i..end)),
            7 => {
                // In binary.
                let number = EDGES[draws.below(EDGES.len())].to_le_bytes();
                let end = (i + number.len()).min(out.len());
                out[i..end].copy_from_slice(&number[..end - i]);
            }
            _ => {
                // In digits, in place of those that are there.
                let Some(start) = out[i..].iter().position(u8::is_ascii_digit).map(|at| i + at) else {
                    continue;
                };
                let len = out[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                let number = EDGES[draws.below(EDGES.len())].to_string();
                out.splice(start..start + len, number.into_bytes());
            }
        }
    }
    out
}

/// The same of a text, as far as it still is one.
pub fn change_text(text: &str, draws: &mut Draws) -> String {
    String::from_utf8_lossy(&mutate(text.as_bytes(), draws)).into_owned()
}
