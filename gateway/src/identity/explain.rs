//! `fieldgate policy explain`: may somebody, and which rule says so.

use std::collections::BTreeSet;

use fieldgate_broker::topic::{self, TopicError};
use fieldgate_certs::Role;
use fieldgate_types::{DeviceId, InvalidDeviceId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::policy::{Action, Rights, Rule, Subject};
use super::registry::DeviceRegistry;
use super::users::User;

/// What is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// An id or `user:NAME`.
    pub who: String,
    /// To publish or to subscribe.
    pub action: Action,
    /// A topic name to publish on, a filter to subscribe to.
    pub topic: String,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Who was asked about, in the words of a policy.
    pub who: String,
    /// Its role.
    pub role: Role,
    /// What was asked.
    pub action: Action,
    /// Where.
    pub topic: String,
    /// Whether it may.
    pub allowed: bool,
    /// The rule that allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleInfo>,
    /// The rule for the same that comes closest, where none allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closest: Option<RuleInfo>,
    /// The groups that it is in.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<String>,
    /// What else there is to say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The policy that would allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add: Option<String>,
}

/// A rule, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleInfo {
    /// `default`: a right of the role; `policy`: a `[[policy]]`.
    pub source: String,
    /// File and line of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Whom the policy is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// Its filter, as written.
    pub filter: String,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum CantExplain {
    /// No such user.
    #[error("there is no user `{0}`; [[broker.user]] in the configuration makes one")]
    NoUser(String),
    /// Not an id.
    #[error("`{0}` is nobody ({1}): an id or \"user:NAME\" is allowed")]
    Nobody(String, InvalidDeviceId),
    /// Not a topic.
    #[error("`{0}` {1}")]
    Topic(String, TopicError),
}

/// Answers with the rights, the users and the registry at hand.
pub fn explain(
    question: &Question,
    rights: &Rights,
    users: &[User],
    registry: &DeviceRegistry,
) -> Result<Explanation, CantExplain> {
    let Question { who, action, topic } = question;
    let bad = |error| CantExplain::Topic(topic.clone(), error);
    let judged = match action {
        Action::Publish => topic::check_name(topic).map(|()| topic.as_str()),
        Action::Subscribe => {
            topic::check_filter(topic).and_then(|()| topic::split_share(topic)).map(|(_, inner)| inner)
        }
    };
    let judged = judged.map_err(bad)?;
    let mut notes = Vec::new();
    if judged != topic {
        notes.push(format!("a shared subscription is judged by its inner filter `{judged}`"));
    }
    let name = who.strip_prefix("user:").unwrap_or(who);
    let user = users.iter().find(|user| user.name.as_str() == name);
    let role = match user {
        Some(user) => user.role,
        None if who.starts_with("user:") => return Err(CantExplain::NoUser(name.to_owned())),
        None => {
            let id = DeviceId::new(who).map_err(|error| CantExplain::Nobody(who.clone(), error))?;
            let entry = registry.device(&id);
            match &entry {
                None => notes.push(format!("`{id}` is not known yet and judged as a device")),
                Some(entry) if entry.revoked.is_some() => notes.push(format!("`{id}` is revoked and can't connect")),
                Some(_) => {}
            }
            entry.map_or(Role::Device, |entry| entry.role)
        }
    };
    let subject = Subject { id: name, role, user: user.is_some() };
    let renamed = rights.rename(&subject, judged).filter(|_| *action == Action::Publish);
    let judged = match &renamed {
        Some((renamed, map)) => {
            notes.push(format!("the [[broker.map]] at {} makes it `{renamed}`, which is what is judged", map.at));
            renamed
        }
        None => judged,
    };
    let rule = rights.rule(&subject, *action, judged);
    let who = if user.is_some() { format!("user:{name}") } else { name.to_owned() };
    let mut explanation = Explanation {
        who,
        role,
        action: *action,
        topic: topic.clone(),
        allowed: rule.is_some(),
        rule: rule.as_ref().map(RuleInfo::from),
        closest: None,
        groups: rights.groups(&subject),
        notes,
        add: None,
    };
    if explanation.allowed {
        return Ok(explanation);
    }
    if let Some(reserved) = Rights::reserved(&subject, *action, judged) {
        explanation.notes.push(reserved.to_owned());
        return Ok(explanation);
    }
    explanation.closest = rights.closest(&subject, *action, judged).as_ref().map(RuleInfo::from);
    explanation.add = Some(format!(
        "[[policy]]\nwho = \"{}\"\nallow = \"{action}\"\nfilter = {}",
        explanation.who,
        // A TOML basic string escapes as JSON does.
        serde_json::Value::from(judged)
    ));
    Ok(explanation)
}

impl From<&Rule<'_>> for RuleInfo {
    fn from(rule: &Rule<'_>) -> Self {
        match rule {
            Rule::Default(filter) => {
                Self { source: "default".to_owned(), at: None, who: None, filter: (*filter).to_owned() }
            }
            Rule::Policy(policy) => Self {
                source: "policy".to_owned(),
                at: Some(policy.at.clone()),
                who: Some(policy.who.to_string()),
                filter: policy.filter.clone(),
            },
        }
    }
}
