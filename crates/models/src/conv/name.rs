//! Names with places for indices: `layer{s}.{i}`, `features.{2s-1}.{i}`, `features.{i+1}`.

/// Indices that fill a name: the stage and the block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub stage: usize,
    pub block: usize,
}

/// The name with its places filled in; `None` if one of them is no index (negative, or malformed).
pub(super) fn fill(template: &str, place: Place) -> Option<String> {
    let mut name = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (inside, after) = after.split_once('}')?;
        name.push_str(before);
        name.push_str(&index(inside, place)?.to_string());
        rest = after;
    }
    name.push_str(rest);
    Some(name)
}

/// `FACTOR? (s|i) ((+|-) OFFSET)?`.
fn index(text: &str, place: Place) -> Option<usize> {
    let at = text.find(['s', 'i'])?;
    let value = if text[at..].starts_with('s') { place.stage } else { place.block };
    let factor = if at == 0 { 1 } else { text[..at].parse::<usize>().ok()? };
    let product = value.checked_mul(factor)?;
    let rest = &text[at + 1..];
    if rest.is_empty() {
        return Some(product);
    }
    match rest.split_at_checked(1)? {
        ("+", offset) => product.checked_add(offset.parse().ok()?),
        ("-", offset) => product.checked_sub(offset.parse().ok()?),
        _ => None,
    }
}

/// What is wrong with a name, if anything.
pub(super) fn check(template: &str) -> Result<(), String> {
    let largest = Place { stage: 1 << 20, block: 1 << 20 };
    match fill(template, largest) {
        Some(name) if !name.contains('}') => Ok(()),
        _ => Err(format!(
            "\"{template}\" is no name; places for indices look like {{s}}, {{i}}, {{2s-1}}, {{i+1}}"
        )),
    }
}

/// Whether the name has a place for the index `letter` (`s` or `i`).
pub(super) fn has(template: &str, letter: char) -> bool {
    template
        .split('{')
        .skip(1)
        .any(|part| part.split('}').next().is_some_and(|inside| inside.contains(letter)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled() {
        let place = Place { stage: 2, block: 5 };
        let filled = |template| fill(template, place);
        assert_eq!(filled("layer{s}.{i}").as_deref(), Some("layer2.5"));
        assert_eq!(filled("features.{2s-1}.{i+1}.x").as_deref(), Some("features.3.6.x"));
        assert_eq!(filled("plain").as_deref(), Some("plain"));
        assert_eq!(filled("{s-3}"), None);
        assert!(has("a.{2s-1}", 's') && !has("a.{2s-1}", 'i') && !has("stage.i", 's'));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "{x}",
            "{s",
            "{}",
            "{s*2}",
            "{-1s}",
            "{s+}",
            "s}",
            "{99999999999999999999s}",
            "{s+1+1}",
            "{é}",
            "{sé}",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check("features.{2s-2}.0").is_ok());
    }
}
