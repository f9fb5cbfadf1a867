//! Topic names and filters: what is valid, what matches, what covers what. Pure text, no rights, no limits but
//! the protocol's own.

/// Why a topic name or filter is not acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// At least one character ([MQTT-4.7.3-1]).
    #[error("is empty")]
    Empty,
    /// Longer than 65,535 bytes ([MQTT-4.7.3-3]).
    #[error("is longer than 65535 bytes")]
    TooLong,
    /// U+0000 is forbidden ([MQTT-4.7.3-2]).
    #[error("contains U+0000")]
    Null,
    /// Wildcards in a topic name ([MQTT-3.3.2-2]).
    #[error("contains a wildcard, which only filters may")]
    Wildcard,
    /// `+` or `#` shares a level with other characters, or `#` is not last ([MQTT-4.7.1-1], [MQTT-4.7.1-2]).
    #[error("has a wildcard in the wrong place: `+` fills a level, `#` the last one")]
    MisplacedWildcard,
    /// `$share/` without a valid group and filter ([MQTT-4.8.2-1], [MQTT-4.8.2-2]).
    #[error("is not a shared subscription: $share/{{group}}/{{filter}}, group without wildcards")]
    Share,
}

/// Checks a topic name.
pub fn check_name(name: &str) -> Result<(), TopicError> {
    common(name)?;
    if name.bytes().any(|b| b == b'+' || b == b'#') { Err(TopicError::Wildcard) } else { Ok(()) }
}

/// Checks a filter, with or without `$share/{group}/`.
pub fn check_filter(filter: &str) -> Result<(), TopicError> {
    common(filter)?;
    let (_, inner) = split_share(filter)?;
    let mut levels = inner.split('/').peekable();
    while let Some(level) = levels.next() {
        let wild = level.bytes().any(|b| b == b'+' || b == b'#');
        if wild && !(level == "+" || level == "#" && levels.peek().is_none()) {
            return Err(TopicError::MisplacedWildcard);
        }
    }
    Ok(())
}

/// Group and inner filter of `$share/{group}/{filter}`; `None` and the filter itself when it isn't shared.
pub fn split_share(filter: &str) -> Result<(Option<&str>, &str), TopicError> {
    let Some(rest) = filter.strip_prefix("$share/") else {
        return if filter == "$share" { Err(TopicError::Share) } else { Ok((None, filter)) };
    };
    match rest.split_once('/') {
        Some((group, inner)) if !group.is_empty() && !inner.is_empty() && !group.contains(['+', '#']) => {
            Ok((Some(group), inner))
        }
        _ => Err(TopicError::Share),
    }
}

/// Number of levels of a name or filter.
pub fn levels(text: &str) -> usize {
    text.bytes().filter(|b| *b == b'/').count() + 1
}

fn common(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        Err(TopicError::Empty)
    } else if text.len() > usize::from(u16::MAX) {
        Err(TopicError::TooLong)
    } else if text.bytes().any(|b| b == 0) {
        Err(TopicError::Null)
    } else {
        Ok(())
    }
}

/// Whether the valid filter (without `$share/group/`) matches the valid topic name.
///
/// Wildcards at the first level don't match names that begin with `$` ([MQTT-4.7.2-1]); `a/#` matches `a` too.
pub fn matches(filter: &str, name: &str) -> bool {
    if name.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut names = name.split('/');
    for level in filter.split('/') {
        match (level, names.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(name)) if level == name => {}
            (_, Some(_) | None) => return false,
        }
    }
    names.next().is_none()
}

/// Whether filter `a` matches every topic name that filter `b` can match. Both valid, without `$share/group/`.
///
/// Never true when it isn't so. The one false "no": `/#`, which by its form matches the empty name that no name may be.
pub fn covers(a: &str, b: &str) -> bool {
    // `#` and `+/…` never match `$…`, so they cover nothing that begins so.
    if b.starts_with('$') && a.starts_with(['+', '#']) {
        return false;
    }
    // Every name has a first level, so `+/#` says the same as `#`. Further in the two differ: `a/#` matches `a`.
    let mut ours = if a == "+/#" { "#" } else { a }.split('/');
    let mut theirs = b.split('/');
    loop {
        match (ours.next(), theirs.next()) {
            (None, None) | (Some("#"), _) => return true,
            // `b` goes on, or matches an open number of levels, where `a` ends or asks for exactly one level.
            (None, Some(_)) | (Some(_), None | Some("#")) => return false,
            (Some("+"), Some(_)) => {}
            (Some(our), Some(their)) if our == their => {}
            (Some(_), Some(_)) => return false,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn checks_names_and_filters() {
        assert_eq!(check_name("a/b//c"), Ok(()));
        assert_eq!(check_name("/"), Ok(()));
        assert_eq!(check_name(""), Err(TopicError::Empty));
        assert_eq!(check_name("a\0"), Err(TopicError::Null));
        assert_eq!(check_name("a/+/b"), Err(TopicError::Wildcard));
        assert_eq!(check_name(&"a".repeat(65_536)), Err(TopicError::TooLong));
        for good in ["#", "+", "a/#", "+/+/#", "/", "a//b", "$share/g/#", "$share/g//", "$sys/#"] {
            assert_eq!(check_filter(good), Ok(()), "{good}");
        }
        for bad in ["a/#/b", "a#", "a+", "+a/b", "##", "#/", "a/b+/c"] {
            assert_eq!(check_filter(bad), Err(TopicError::MisplacedWildcard), "{bad}");
        }
        for bad in ["$share", "$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/a#/b"] {
            assert_eq!(check_filter(bad), Err(TopicError::Share), "{bad}");
        }
        assert_eq!(split_share("$share/g/a/b"), Ok((Some("g"), "a/b")));
    }

    #[test]
    fn matches_as_the_specification_says() {
        for (filter, name, wanted) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("a/+", "a/$x", true),
        ] {
            assert_eq!(matches(filter, name), wanted, "{filter} {name}");
        }
    }

    #[test]
    fn covers_what_policies_rely_on() {
        for (a, b, wanted) in [
            ("devices/#", "devices/+/telemetry/#", true),
            ("devices/+/telemetry/#", "devices/#", false),
            ("devices/d1/#", "devices/d1", true),
            ("devices/d1/#", "devices/+/x", false),
            ("#", "a/#", true),
            ("#", "#", true),
            ("#", "$sys/a", false),
            ("+/a", "$sys/a", false),
            ("a/+", "a/#", false),
            ("a/#", "a/#", true),
            ("+", "#", false),
            ("+/#", "#", true),
            ("a/+/#", "a/#", false),
        ] {
            assert_eq!(covers(a, b), wanted, "{a} {b}");
        }
    }

    /// A matcher of another make, from the text of the specification: [MQTT 5, 4.7.1], [MQTT-4.7.2-1].
    pub(crate) fn naive(filter: &str, name: &str) -> bool {
        fn levels(filter: &[&str], name: &[&str]) -> bool {
            match (filter.split_first(), name.split_first()) {
                (Some((&"#", _)), _) | (None, None) => true,
                (Some((level, filter)), Some((own, name))) => (*level == "+" || level == own) && levels(filter, name),
                (None, Some(_)) | (Some(_), None) => false,
            }
        }
        let (filter, name): (Vec<&str>, Vec<&str>) = (filter.split('/').collect(), name.split('/').collect());
        let hidden = name[0].starts_with('$') && ["+", "#"].contains(&filter[0]);
        !hidden && levels(&filter, &name)
    }

    /// Everything of one to `most` levels over an alphabet.
    fn all(alphabet: &[&str], most: usize) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        let mut last: Vec<String> = alphabet.iter().map(|level| (*level).to_owned()).collect();
        for _ in 0..most {
            found.extend(last.iter().cloned());
            last = last.iter().flat_map(|text| alphabet.iter().map(move |level| format!("{text}/{level}"))).collect();
        }
        found.retain(|text| !text.is_empty());
        found
    }

    /// Exhaustive: every pair of filters of up to three levels and a `#`, judged by all names that they can match.
    /// Names have a letter that no filter has, and one level more than filters, so that any difference shows.
    #[test]
    fn matches_and_covers_agree_with_brute_force() {
        let names = all(&["a", "b", "", "$s", "x"], 4);
        let mut filters = all(&["a", "b", "", "$s", "+"], 3);
        let below: Vec<String> = filters.iter().map(|filter| format!("{filter}/#")).collect();
        filters.extend(below.into_iter().chain(["#".to_owned(), "/#".to_owned()]));
        let matched = |filter: &String| {
            let mut bits = vec![0_u64; names.len().div_ceil(64)];
            for (index, name) in names.iter().enumerate() {
                let expected = naive(filter, name);
                assert_eq!(matches(filter, name), expected, "{filter} {name}");
                bits[index / 64] |= u64::from(expected) << (index % 64);
            }
            bits
        };
        let matched: Vec<Vec<u64>> = filters.iter().map(matched).collect();
        let mut covered = 0;
        for (a, of_a) in filters.iter().zip(&matched) {
            for (b, of_b) in filters.iter().zip(&matched) {
                let brute = of_a.iter().zip(of_b).all(|(a, b)| b & !a == 0);
                // See `covers` for the one "no" too many.
                let false_no = b == "/#" && brute && !covers(a, b);
                assert!(covers(a, b) == brute || false_no, "{a} covers {b}: {brute}");
                covered += u32::from(brute);
            }
        }
        assert!(filters.len() > 300 && covered > 3_000, "{} filters, {covered} pairs", filters.len());
    }
}
