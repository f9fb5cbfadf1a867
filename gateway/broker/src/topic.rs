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
            (_, None) => return false,
            ("+", Some(_)) => {}
            (level, Some(name)) if level == name => {}
            (_, Some(_)) => return false,
        }
    }
    names.next().is_none()
}

/// Whether filter `a` matches every topic name that filter `b` can match. Both valid, without `$share/group/`.
pub fn covers(a: &str, b: &str) -> bool {
    // `#` and `+/…` never match `$…`, so they cover nothing that begins so.
    if b.starts_with('$') && a.starts_with(['+', '#']) {
        return false;
    }
    let mut ours = a.split('/');
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
