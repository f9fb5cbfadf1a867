//! `[[upstream.forward]]` and `[[upstream.fetch]]`: topic trees of a plant that was there before us, up and down.

use fieldgate_broker::topic;
use fieldgate_types::Section;

use super::topic::is_free;

/// One topic tree that crosses the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Which local topics: a topic filter.
    pub filter: String,
    /// What stands before the local topic upstream, without a `/` at its end; empty for nothing. `{root}/{gateway}` where it
    /// is not set.
    pub prefix: Option<String>,
    /// Whether the retain flag travels too.
    pub retain: bool,
}

impl Tree {
    /// Reads one table.
    pub fn read(section: &Section) -> Option<Self> {
        let prefix = section.get::<String>("prefix");
        if let Some(prefix) = prefix.as_ref().filter(|prefix| !prefix.is_empty() && !is_path(prefix)) {
            section.problem("prefix", format_args!("`{prefix}` {PATH}"));
        }
        let retain = section.get_or("retain", true);
        let filter = section.required_with("filter", |value| value.parse("a topic filter", parse_filter))?;
        Some(Self { filter, prefix, retain })
    }

    /// Whether a local topic belongs to it.
    pub fn holds(&self, local: &str) -> bool {
        is_free(local) && topic::matches(&self.filter, local)
    }

    /// The upstream topic or filter of a local one; `None`: below the gateway's own root.
    pub fn absolute(&self, local: &str) -> Option<String> {
        Some(match self.prefix.as_deref()? {
            "" => local.to_owned(),
            prefix => [prefix, "/", local].concat(),
        })
    }
}

/// Levels that may stand before others: none empty, no wildcards, not `$…`.
pub fn is_path(text: &str) -> bool {
    text.len() <= 256
        && !text.starts_with('$')
        && text.split('/').all(|level| !level.is_empty())
        && !text.contains(['+', '#', '\0'])
}

/// What [`is_path`] asks for, in words.
pub const PATH: &str =
    "must be levels divided by `/`, none empty, without + and #, at most 256 bytes, not beginning with $";

fn parse_filter(text: &str) -> Result<String, String> {
    topic::check_filter(text).map_err(|error| format!("`{text}` {error}"))?;
    if text.starts_with("$share/") || !is_free(text) {
        return Err(format!("`{text}` can't be chosen: devices/, modules/ and $… have ways of their own"));
    }
    Ok(text.to_owned())
}

/// Whether some topic matches both filters.
pub fn overlap(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('/'), b.split('/'));
    loop {
        match (a.next(), b.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(x), Some(y)) if x == y || x == "+" || y == "+" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn knows_what_belongs_to_it_and_where_it_goes() {
        let tree = |filter: &str, prefix: Option<&str>| Tree {
            filter: parse_filter(filter).unwrap(),
            prefix: prefix.map(str::to_owned),
            retain: true,
        };
        let all = tree("#", Some(""));
        assert!(all.holds("plant/a") && !all.holds("devices/a/telemetry/t") && !all.holds("$SYS/x"));
        assert_eq!(all.absolute("plant/a").as_deref(), Some("plant/a"));
        assert_eq!(tree("plant/#", Some("site-3")).absolute("plant/a").as_deref(), Some("site-3/plant/a"));
        assert_eq!(tree("plant/#", None).absolute("plant/a"), None);
        for bad in ["devices/#", "$SYS/#", "modules/x", "$share/g/a", "a/#/b", ""] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn filters_that_match_one_topic_overlap(
            a in "(a|b|[+])(/(a|b|[+])){0,2}(/#)?", b in "(a|b|[+])(/(a|b|[+])){0,2}(/#)?", name in "[ab](/[ab]){0,3}",
        ) {
            if topic::matches(&a, &name) && topic::matches(&b, &name) {
                prop_assert!(overlap(&a, &b), "{a} and {b} both match {name}");
            }
        }
    }
}
