//! Who may publish and subscribe what: default rights and `[[policy]]` (DESIGN section 4). Allow rules only,
//! ORed; what no rule allows is denied.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use fieldgate_broker::topic;
use fieldgate_certs::Role;
use fieldgate_types::{DeviceId, Section};
use serde::{Deserialize, Serialize};

use super::mapping::Map;
use super::registry::DeviceRegistry;
use crate::pipeline::topic::is_free;

/// `[[group]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name, for `who = "group:…"`.
    pub name: String,
    /// Those of its members that the configuration lists; they need not be known yet.
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
    /// Where it stands: file and line.
    pub at: String,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// `"publish"`
    Publish,
    /// `"subscribe"`
    Subscribe,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
        })
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Role(role) => write!(f, "role:{role}"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Everybody => f.write_str("*"),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.who, self.allow, self.filter)
    }
}

impl Group {
    /// Reads a `[[group]]`.
    pub fn read(section: &Section) -> Option<Self> {
        let name = section.required("name");
        // Devices can be enrolled into it as well.
        let members = section.get_or("members", Vec::new());
        Some(Self { name: name?, members })
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
        let policy = Self { who: who?, allow: allow?, filter: filter?, at: section.place_text() };
        if policy.allow == Action::Publish && is_below(&policy.filter, &OURS) {
            section.problem("filter", "nobody may publish there but the gateway itself, \"subscribe\" is allowed");
        }
        Some(policy)
    }
}

pub(super) fn parse_who(text: &str, groups: &BTreeSet<String>) -> Result<Who, String> {
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

/// First levels that the gateway alone publishes below.
const OURS: [&str; 2] = ["$SYS", "$fieldgate"];
const SYS: [&str; 1] = ["$SYS"];

fn is_below(topic: &str, first: &[&str]) -> bool {
    topic.split('/').next().is_some_and(|level| first.contains(&level))
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Device id or user name.
    pub id: &'a str,
    /// Its role.
    pub role: Role,
    /// Whether it came in with a password.
    pub user: bool,
}

/// A rule that allows something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule<'a> {
    /// A default right of the role.
    Default(&'static str),
    /// A policy.
    Policy(&'a Policy),
}

impl Rule<'_> {
    /// Its filter for `id`.
    fn filter(&self, id: &str) -> String {
        let filter = match self {
            Self::Default(filter) => filter,
            Self::Policy(policy) => policy.filter.as_str(),
        };
        filter.replace("{device}", id)
    }
}

/// All rules that are in force.
#[derive(Debug, Default)]
pub struct Rights {
    groups: BTreeMap<String, BTreeSet<DeviceId>>,
    policies: Vec<Policy>,
    maps: Vec<Map>,
    /// Knows who was enrolled into which group.
    enrolled: Option<Arc<DeviceRegistry>>,
}

impl Rights {
    /// The default rights and these.
    pub fn new(groups: &[Group], policies: &[Policy], maps: &[Map]) -> Self {
        let mut members: BTreeMap<String, BTreeSet<DeviceId>> = BTreeMap::new();
        for group in groups {
            members.entry(group.name.clone()).or_default().extend(group.members.iter().cloned());
        }
        Self { groups: members, policies: policies.to_vec(), maps: maps.to_vec(), enrolled: None }
    }

    /// The same for who is in a group by its enrolment, too.
    #[must_use]
    pub fn with_enrolled(self, registry: Arc<DeviceRegistry>) -> Self {
        Self { enrolled: Some(registry), ..self }
    }

    /// Every group that `who` is in, by the configuration or by its enrolment.
    pub fn groups(&self, who: &Subject<'_>) -> BTreeSet<String> {
        let listed = self.groups.iter().filter(|(_, members)| members.contains(who.id)).map(|(name, _)| name.clone());
        let enrolled = self.enrolled.as_ref().filter(|_| !who.user).map(|registry| registry.groups(who.id));
        listed.chain(enrolled.into_iter().flatten()).collect()
    }

    fn is_member(&self, who: &Subject<'_>, group: &str) -> bool {
        let listed = self.groups.get(group).is_some_and(|members| members.contains(who.id));
        // A user is nobody's device.
        let enrolled = || !who.user && self.enrolled.as_ref().is_some_and(|registry| registry.in_group(who.id, group));
        listed || enrolled()
    }

    /// The topic that stands for `name` when `who` publishes there, and the first map that says so. It is this topic that
    /// rights are about.
    pub fn rename(&self, who: &Subject<'_>, name: &str) -> Option<(String, &Map)> {
        if self.maps.is_empty() || !is_free(name) {
            return None;
        }
        let about = |map: &&Map| self.is_about(&map.who, who);
        self.maps.iter().filter(about).find_map(|map| Some((map.apply(who.id, name)?, map)))
    }

    /// Whether `who` may publish on `name`, a topic name.
    pub fn may_publish(&self, who: &Subject<'_>, name: &str) -> bool {
        self.rule(who, Action::Publish, name).is_some()
    }

    /// Whether `who` may subscribe to `wanted`, a filter without its `$share` part: one rule must cover it all.
    pub fn may_subscribe(&self, who: &Subject<'_>, wanted: &str) -> bool {
        self.rule(who, Action::Subscribe, wanted).is_some()
    }

    /// Whether `who` may be sent a message on `name`. A name is a filter that matches itself alone.
    pub fn may_receive(&self, who: &Subject<'_>, name: &str) -> bool {
        self.rule(who, Action::Subscribe, name).is_some()
    }

    /// The rule that allows it: to publish on a name, to subscribe to a filter without its `$share` part.
    pub fn rule(&self, who: &Subject<'_>, action: Action, wanted: &str) -> Option<Rule<'_>> {
        if Self::reserved(who, action, wanted).is_some() {
            return None;
        }
        self.rules(who, action).find(|rule| topic::covers(&rule.filter(who.id), wanted))
    }

    /// Why no rule can allow it.
    pub fn reserved(who: &Subject<'_>, action: Action, wanted: &str) -> Option<&'static str> {
        match action {
            Action::Publish if is_below(wanted, &OURS) => Some("nobody may publish there but the gateway itself"),
            Action::Subscribe if is_below(wanted, &SYS) && who.role != Role::App => {
                Some("$SYS is for programs (role app) alone")
            }
            Action::Publish | Action::Subscribe => None,
        }
    }

    /// Of the rules for the same action that are about `who`, the one that shares most levels with `wanted`.
    pub fn closest(&self, who: &Subject<'_>, action: Action, wanted: &str) -> Option<Rule<'_>> {
        let shared = |rule: &Rule<'_>| {
            let filter = rule.filter(who.id);
            let levels = filter.split('/').zip(wanted.split('/'));
            levels.take_while(|(ours, theirs)| ours == theirs || *ours == "+").count()
        };
        self.rules(who, action).max_by_key(shared)
    }

    fn rules<'a, 'w>(&'a self, who: &'w Subject<'w>, action: Action) -> impl Iterator<Item = Rule<'a>> + use<'a, 'w> {
        let defaults: &[&'static str] = match (who.role, action) {
            (Role::Device, Action::Publish) => &DEVICE_PUBLISH,
            (Role::Device, Action::Subscribe) => &DEVICE_SUBSCRIBE,
            (Role::App | Role::Gateway, _) => &[],
        };
        let about = move |policy: &&Policy| policy.allow == action && self.is_about(&policy.who, who);
        defaults.iter().copied().map(Rule::Default).chain(self.policies.iter().filter(about).map(Rule::Policy))
    }

    fn is_about(&self, rule: &Who, who: &Subject<'_>) -> bool {
        match rule {
            // Ids of devices and users are of one kind and don't coincide.
            Who::Id(wanted) => wanted.as_str() == who.id,
            Who::Group(name) => self.is_member(who, name),
            Who::Role(wanted) => *wanted == who.role,
            // A certificate is never a user.
            Who::User(name) => who.user && name.as_str() == who.id,
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
        let (who, filter) = (parse_who(who, &names).unwrap(), parse_filter(filter).unwrap());
        let policy = Policy { who, allow, filter, at: "gateway.toml:1".to_owned() };
        Rights::new(&groups, &[policy], &[])
    }

    fn who(id: &str, role: Role) -> Subject<'_> {
        Subject { id, role, user: false }
    }

    #[test]
    fn a_device_has_its_own_tree_and_nothing_else() {
        let rights = Rights::default();
        let publish = |topic| rights.may_publish(&who("a", Role::Device), topic);
        assert!(publish("devices/a/telemetry/t") && publish("devices/a/commands/x/1/result"));
        for denied in ["devices/b/telemetry/t", "devices/a/state", "devices/a/commands/x/1", "plant/x", "$fieldgate/ca"]
        {
            assert!(!publish(denied), "{denied}");
        }
        let subscribe = |filter| rights.may_subscribe(&who("a", Role::Device), filter);
        assert!(subscribe("devices/a/#") && subscribe("devices/a/commands/+/+") && subscribe("$fieldgate/ca"));
        for denied in ["#", "devices/+/state", "devices/#", "devices/b/#", "$fieldgate/#", "+/a/state"] {
            assert!(!subscribe(denied), "{denied}");
        }
        assert!(!rights.may_publish(&who("a", Role::App), "devices/a/telemetry/t"));
    }

    #[test]
    fn policies_add_rights() {
        let all = rights("role:app", Action::Subscribe, "devices/#");
        assert!(all.may_subscribe(&who("hmi", Role::App), "devices/+/telemetry/#"));
        assert!(!all.may_subscribe(&who("hmi", Role::App), "#"));
        assert!(!all.may_publish(&who("hmi", Role::App), "devices/a/telemetry/x"));

        let own = rights("*", Action::Publish, "plant/{device}/#");
        assert!(own.may_publish(&who("x", Role::Device), "plant/x/speed"));
        assert!(!own.may_publish(&who("x", Role::Device), "plant/y/speed"));

        let group = rights("group:presses", Action::Publish, "shared/t");
        assert!(group.may_publish(&who("press-1", Role::Device), "shared/t"));
        assert!(!group.may_publish(&who("press-2", Role::Device), "shared/t"));
    }

    #[test]
    fn who_is_enrolled_into_a_group_is_a_member_until_revoked() {
        use fieldgate_store::State;
        use fieldgate_types::{BUILD_FLOOR, ManualClock};

        use crate::identity::Wanted;

        let folder = tempfile::tempdir().unwrap();
        let state = State::open(&folder.path().join("state.db"), Arc::new(ManualClock::new(BUILD_FLOOR))).unwrap();
        let registry = Arc::new(DeviceRegistry::open(Arc::new(state)).unwrap());
        let rights = rights("group:presses", Action::Publish, "shared/t").with_enrolled(Arc::clone(&registry));
        let (listed, enrolled) = (who("press-1", Role::Device), who("press-9", Role::Device));
        assert!(rights.may_publish(&listed, "shared/t") && !rights.may_publish(&enrolled, "shared/t"));
        let wanted = Wanted { groups: BTreeSet::from(["presses".to_owned()]), ..Wanted::as_role(Role::Device) };
        let id = DeviceId::new("press-9").unwrap();
        registry.add(&id, &wanted, BUILD_FLOOR).unwrap();
        assert!(rights.may_publish(&enrolled, "shared/t"), "at once");
        assert_eq!(rights.groups(&enrolled), BTreeSet::from(["presses".to_owned()]));
        assert!(!rights.may_publish(&Subject { user: true, ..enrolled }, "shared/t"));
        registry.revoke(&id, BUILD_FLOOR).unwrap();
        assert!(!rights.may_publish(&enrolled, "shared/t"));
        assert!(rights.groups(&enrolled).is_empty());
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

    #[test]
    fn a_rule_for_a_user_is_not_for_a_certificate_of_that_name() {
        let rights = rights("user:hmi", Action::Subscribe, "devices/#");
        let user = Subject { id: "hmi", role: Role::App, user: true };
        assert!(rights.may_subscribe(&user, "devices/+/state"));
        assert!(!rights.may_subscribe(&who("hmi", Role::App), "devices/+/state"));
        assert!(!rights.may_subscribe(&Subject { id: "scada", ..user }, "devices/+/state"));
    }

    #[test]
    fn the_gateways_own_trees_are_read_by_right_and_written_by_nobody() {
        let all = rights("*", Action::Publish, "#");
        assert!(all.may_publish(&who("a", Role::App), "plant/x"));
        let sys = rights("*", Action::Publish, "$SYS/#");
        assert!(!sys.may_publish(&who("a", Role::App), "$SYS/broker/uptime"));
        let read = rights("*", Action::Subscribe, "$SYS/#");
        assert!(read.may_subscribe(&who("a", Role::App), "$SYS/broker/#"));
        assert!(!read.may_subscribe(&who("a", Role::Device), "$SYS/broker/#"));
        assert!(!rights("*", Action::Subscribe, "#").may_subscribe(&who("a", Role::App), "$SYS/broker/#"));
    }

    #[test]
    fn finds_the_rule_that_comes_closest() {
        let rights = rights("*", Action::Subscribe, "devices/+/telemetry/#");
        let app = who("a", Role::App);
        assert!(rights.rule(&app, Action::Subscribe, "devices/+/state").is_none());
        let closest = rights.closest(&app, Action::Subscribe, "devices/+/state").unwrap();
        assert_eq!(closest.filter("a"), "devices/+/telemetry/#");
        assert_eq!(rights.closest(&app, Action::Publish, "devices/a/state"), None);
        let device = who("d", Role::Device);
        let rule = rights.rule(&device, Action::Publish, "devices/d/commands/x/1/result");
        assert_eq!(rule, Some(Rule::Default("devices/{device}/commands/+/+/result")));
    }
}
