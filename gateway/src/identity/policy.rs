//! Who may publish and subscribe what: default rights and `[[policy]]` (DESIGN section 4). Allow rules only,
//! ORed; what no rule allows is denied.

use std::collections::{BTreeMap, BTreeSet};

use fieldgate_broker::topic;
use fieldgate_certs::Role;
use fieldgate_types::{DeviceId, Section};

/// `[[group]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name, for `who = "group:…"`.
    pub name: String,
    /// Its members; they need not be known yet.
    pub members: Vec<DeviceId>,
}

/// `[[policy]]`: one thing that somebody may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Who.
    pub who: Who,
    /// What.
    pub allow: Action,
    /// Where: an MQTT topic filter in which `{device}` stands for the id of whoever asks.
    pub filter: String,
}

/// Whom a policy is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A device, program or gateway by its id.
    Id(DeviceId),
    /// `group:…`
    Group(String),
    /// `role:…`
    Role(Role),
    /// `user:…`, a password user
    User(DeviceId),
    /// `*`
    Everybody,
}

/// What a policy allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `"publish"`
    Publish,
    /// `"subscribe"`
    Subscribe,
}

impl Group {
    /// Reads a `[[group]]`.
    pub fn read(section: &Section) -> Option<Self> {
        let name = section.required("name");
        let members = section.required("members");
        Some(Self { name: name?, members: members? })
    }
}

impl Policy {
    /// Reads a `[[policy]]`; `groups` are the names that exist.
    pub fn read(section: &Section, groups: &BTreeSet<String>) -> Option<Self> {
        let who = section
            .required_with("who", |value| value.parse("who the policy is about", |text| parse_who(text, groups)));
        let actions = [("publish", Action::Publish), ("subscribe", Action::Subscribe)];
        let allow = section.optional_choice("allow", &actions);
        if !section.has("allow") {
            section.problem("allow", "is missing, \"publish\" or \"subscribe\" is allowed");
        }
        let filter = section.required_with("filter", |value| value.parse("a topic filter", parse_filter));
        Some(Self { who: who?, allow: allow?, filter: filter? })
    }
}

fn parse_who(text: &str, groups: &BTreeSet<String>) -> Result<Who, String> {
    let Some((kind, name)) = text.split_once(':') else {
        if text == "*" {
            return Ok(Who::Everybody);
        }
        return DeviceId::new(text).map(Who::Id).map_err(|error| error.to_string());
    };
    match kind {
        "group" if groups.contains(name) => Ok(Who::Group(name.to_owned())),
        "group" => Err(format!("there is no [[group]] named `{name}`")),
        "role" => name
            .parse()
            .map(Who::Role)
            .map_err(|_| format!("`{name}` is not a role, device, app or gateway is allowed")),
        "user" => DeviceId::new(name).map(Who::User).map_err(|error| error.to_string()),
        _ => Err(format!("`{text}` is nobody: an id, \"group:…\", \"role:…\", \"user:…\" or \"*\" is allowed")),
    }
}

fn parse_filter(text: &str) -> Result<String, String> {
    if text.starts_with("$share/") {
        return Err("write the filter without $share: shared subscriptions are judged by their inner filter".to_owned());
    }
    // Ids are valid levels, so a stand-in shows whether the filter is.
    topic::check_filter(&text.replace("{device}", "id"))
        .map_err(|error| format!("`{text}` is not a topic filter: {error}"))?;
    Ok(text.to_owned())
}

/// Rights of a device on its own tree; the others get theirs by policy.
const DEVICE_PUBLISH: [&str; 3] =
    ["devices/{device}/telemetry/#", "devices/{device}/twin/reported", "devices/{device}/commands/+/+/result"];
const DEVICE_SUBSCRIBE: [&str; 2] = ["devices/{device}/#", super::super::pipeline::topic::CA];

/// All rules that are in force.
#[derive(Debug, Default)]
pub struct Rights {
    groups: BTreeMap<String, BTreeSet<DeviceId>>,
    policies: Vec<Policy>,
}

impl Rights {
    /// The default rights and these.
    pub fn new(groups: &[Group], policies: &[Policy]) -> Self {
        let mut members: BTreeMap<String, BTreeSet<DeviceId>> = BTreeMap::new();
        for group in groups {
            members.entry(group.name.clone()).or_default().extend(group.members.iter().cloned());
        }
        Self { groups: members, policies: policies.to_vec() }
    }

    /// Whether `id` may publish on `name`, a topic name.
    pub fn may_publish(&self, id: &str, role: Role, name: &str) -> bool {
        self.filters(id, role, Action::Publish).any(|filter| topic::matches(&filter, name))
    }

    /// Whether `id` may subscribe to `wanted`, a filter without its `$share` part: one rule must cover it all.
    pub fn may_subscribe(&self, id: &str, role: Role, wanted: &str) -> bool {
        self.filters(id, role, Action::Subscribe).any(|filter| topic::covers(&filter, wanted))
    }

    /// Whether `id` may be sent a message on `name`.
    pub fn may_receive(&self, id: &str, role: Role, name: &str) -> bool {
        self.filters(id, role, Action::Subscribe).any(|filter| topic::matches(&filter, name))
    }

    fn filters<'a>(&'a self, id: &'a str, role: Role, action: Action) -> impl Iterator<Item = String> + 'a {
        let defaults: &[&str] = match (role, action) {
            (Role::Device, Action::Publish) => &DEVICE_PUBLISH,
            (Role::Device, Action::Subscribe) => &DEVICE_SUBSCRIBE,
            (Role::App | Role::Gateway, _) => &[],
        };
        let rules =
            self.policies.iter().filter(move |policy| policy.allow == action && self.is_about(&policy.who, id, role));
        let filters = defaults.iter().copied().chain(rules.map(|policy| policy.filter.as_str()));
        filters.map(move |filter| filter.replace("{device}", id))
    }

    fn is_about(&self, who: &Who, id: &str, role: Role) -> bool {
        match who {
            Who::Id(wanted) => wanted.as_str() == id,
            Who::Group(name) => self.groups.get(name).is_some_and(|members| members.contains(id)),
            Who::Role(wanted) => *wanted == role,
            // Password users don't exist yet; a certificate is never one.
            Who::User(_) => false,
            Who::Everybody => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(who: &str, allow: Action, filter: &str) -> Rights {
        let groups = [Group { name: "presses".to_owned(), members: vec![DeviceId::new("press-1").unwrap()] }];
        let names = BTreeSet::from(["presses".to_owned()]);
        let policy = Policy { who: parse_who(who, &names).unwrap(), allow, filter: parse_filter(filter).unwrap() };
        Rights::new(&groups, &[policy])
    }

    #[test]
    fn a_device_has_its_own_tree_and_nothing_else() {
        let rights = Rights::default();
        let publish = |topic| rights.may_publish("a", Role::Device, topic);
        assert!(publish("devices/a/telemetry/t") && publish("devices/a/commands/x/1/result"));
        for denied in ["devices/b/telemetry/t", "devices/a/state", "devices/a/commands/x/1", "plant/x", "$fieldgate/ca"]
        {
            assert!(!publish(denied), "{denied}");
        }
        let subscribe = |filter| rights.may_subscribe("a", Role::Device, filter);
        assert!(subscribe("devices/a/#") && subscribe("devices/a/commands/+/+") && subscribe("$fieldgate/ca"));
        for denied in ["#", "devices/+/state", "devices/#", "devices/b/#", "$fieldgate/#", "+/a/state"] {
            assert!(!subscribe(denied), "{denied}");
        }
        assert!(!rights.may_publish("a", Role::App, "devices/a/telemetry/t"));
    }

    #[test]
    fn policies_add_rights() {
        let all = rights("role:app", Action::Subscribe, "devices/#");
        assert!(all.may_subscribe("hmi", Role::App, "devices/+/telemetry/#"));
        assert!(!all.may_subscribe("hmi", Role::App, "#"));
        assert!(!all.may_publish("hmi", Role::App, "devices/a/telemetry/x"));

        let own = rights("*", Action::Publish, "plant/{device}/#");
        assert!(own.may_publish("x", Role::Device, "plant/x/speed"));
        assert!(!own.may_publish("x", Role::Device, "plant/y/speed"));

        let group = rights("group:presses", Action::Publish, "shared/t");
        assert!(group.may_publish("press-1", Role::Device, "shared/t"));
        assert!(!group.may_publish("press-2", Role::Device, "shared/t"));
    }

    #[test]
    fn refuses_nobody_and_odd_filters() {
        let none = BTreeSet::new();
        for bad in ["group:x", "role:king", "team:x", "", "a/b"] {
            assert!(parse_who(bad, &none).is_err(), "{bad}");
        }
        for bad in ["", "a/#/b", "a+", "$share/g/a"] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
    }
}
