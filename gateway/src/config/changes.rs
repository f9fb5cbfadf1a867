//! What is different from the configuration of the last start, for the audit log.
//!
//! Each section is known by the digest of what this version made of it: defaults count, comments and the order of keys
//! don't. Secrets are in files of their own and not in it. Rights are kept in words, so that each is named that came or went.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use fieldgate_certs::Fingerprint;
use fieldgate_store::{Put, State, StateError};
use serde::{Deserialize, Serialize};

use super::Config;
use crate::audit::{Audit, Event};

const TABLE: &str = "gateway";
const CONFIGURATION: &[u8] = b"configuration";
/// Rights that are named in one line of the audit log; of further ones their number is.
const NAMED: usize = 50;

/// What is remembered of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Summary {
    sections: BTreeMap<String, Fingerprint>,
    policies: BTreeSet<String>,
}

impl Summary {
    fn of(config: &Config) -> Self {
        let Config {
            id,
            data_dir,
            broker,
            certs,
            enrolment,
            upstream,
            buffer,
            command_timeout,
            admin,
            groups,
            policies,
            modbus,
            opcua,
            // Said by the sections.
            files: _,
            settings: _,
            source: _,
        } = config;
        let policies: BTreeSet<String> = policies.iter().map(ToString::to_string).collect();
        let sections = [
            digest("gateway", &(id, data_dir)),
            digest("broker", broker),
            digest("certs", certs),
            digest("enrolment", enrolment),
            digest("upstream", upstream),
            digest("buffer", buffer),
            digest("commands", command_timeout),
            digest("admin", admin),
            digest("group", groups),
            digest("policy", &policies),
            digest("modbus", modbus),
            digest("opcua", opcua),
        ];
        Self { sections: sections.map(|(name, digest)| (name.to_owned(), digest)).into(), policies }
    }

    /// What came and went since `before`.
    fn changed_from(&self, before: &Self) -> Option<Event> {
        if self == before {
            return None;
        }
        let differs = |name: &&String| self.sections.get(*name) != before.sections.get(*name);
        let names: BTreeSet<&String> = self.sections.keys().chain(before.sections.keys()).collect();
        let sections = names.into_iter().filter(differs).cloned().collect();
        let named = |a: &BTreeSet<String>, b: &BTreeSet<String>| -> (Vec<String>, usize) {
            let mut all: Vec<String> = a.difference(b).cloned().collect();
            let more = all.len().saturating_sub(NAMED);
            all.truncate(NAMED);
            (all, more)
        };
        let (policies_added, more_added) = named(&self.policies, &before.policies);
        let (policies_removed, more_removed) = named(&before.policies, &self.policies);
        let policies_more = Some(more_added + more_removed).filter(|more| *more > 0);
        let (_, digest) = digest("", &self.sections);
        Some(Event::ConfigurationChanged { digest, sections, policies_added, policies_removed, policies_more })
    }
}

fn digest(name: &'static str, section: &impl Debug) -> (&'static str, Fingerprint) {
    (name, Fingerprint::of(format!("{section:?}").as_bytes()))
}

/// Writes a line where `config` differs from the one of the last start, and remembers it. Waits for the disk.
pub fn record(config: &Config, state: &State, audit: &Audit) -> Result<(), StateError> {
    // A row that can't be read is as none: everything is new.
    let before = state.get(TABLE, CONFIGURATION)?.and_then(|row| serde_json::from_slice(&row).ok()).unwrap_or_default();
    let now = Summary::of(config);
    let Some(event) = now.changed_from(&before) else { return Ok(()) };
    audit.record(event);
    match serde_json::to_vec(&now) {
        Ok(value) => state.commit(&[Put { table: TABLE, key: CONFIGURATION.to_vec(), value }], &[]),
        Err(error) => {
            tracing::error!(%error, "the configuration can't be remembered, and counts as changed at the next start");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn summary(text: &str) -> Summary {
        Summary::of(&super::super::read("gateway.toml", Path::new("/srv"), text).config.unwrap())
    }

    fn policy(who: &str) -> String {
        format!("[[policy]]\nwho = \"{who}\"\nallow = \"subscribe\"\nfilter = \"devices/#\"\n")
    }

    #[test]
    fn comments_and_order_are_no_change_and_each_section_is_named() {
        let one = summary("[buffer]\nmax_age = \"7d\"\n[commands]\ntimeout = \"5s\"\n");
        let same = summary("# as before\n[commands]\ntimeout = \"5000ms\"\n[buffer]\n");
        assert!(same.changed_from(&one).is_none());
        let other = summary("[commands]\ntimeout = \"6s\"\n[admin]\nlisten = \"127.0.0.1:1\"\n");
        let Some(Event::ConfigurationChanged { sections, .. }) = other.changed_from(&one) else { panic!("{other:?}") };
        assert_eq!(sections, ["admin", "commands"]);
    }

    #[test]
    fn rights_that_come_and_go_are_named_up_to_a_number() {
        let one = summary(&(policy("hmi") + &policy("scada")));
        let moved = summary(&("\n\n".to_owned() + &policy("scada") + &policy("hmi")));
        assert!(moved.changed_from(&one).is_none(), "where it stands doesn't matter");
        let other = summary(&policy("*"));
        let Some(Event::ConfigurationChanged { policies_added, policies_removed, policies_more, sections, .. }) =
            other.changed_from(&one)
        else {
            panic!("{other:?}")
        };
        assert_eq!((sections, policies_added), (vec!["policy".to_owned()], vec!["* subscribe devices/#".to_owned()]));
        assert_eq!(policies_removed, ["hmi subscribe devices/#", "scada subscribe devices/#"]);
        assert_eq!(policies_more, None);
        let many: String = (0..60).map(|n| policy(&format!("p{n}"))).collect();
        let Some(Event::ConfigurationChanged { policies_added, policies_more, .. }) =
            summary(&many).changed_from(&Summary::default())
        else {
            panic!("no change")
        };
        assert_eq!((policies_added.len(), policies_more), (50, Some(10)));
    }
}
