//! Where this connection's topics go: decisions and plans of the topics that it used last, so that a steady
//! stream costs neither a lookup nor a question to the gate.

use std::collections::HashMap;
use std::sync::Arc;

use crate::core::Core;
use crate::router::Plan;
use crate::{Decision, Identity};

/// Topics remembered per connection; when there are more, all are forgotten. A device has a handful.
const MOST: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Routes {
    /// By the name that was published to.
    by_name: HashMap<Arc<str>, Route>,
    /// Generation of rights that the decisions belong to.
    rights: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Route {
    /// The name that the message goes on with.
    pub topic: Arc<str>,
    pub decision: Decision,
    pub plan: Arc<Plan>,
}

impl Routes {
    /// Decision and plan for a topic name that `who` publishes to.
    pub(super) fn get(&mut self, core: &Core, who: &Identity, session: u64, name: &str) -> Route {
        let rights = core.rights();
        if self.rights != rights {
            self.by_name.clear();
            self.rights = rights;
        }
        if let Some(route) = self.by_name.get_mut(name) {
            if !core.router.fresh(&route.plan) {
                route.plan = Arc::new(core.router.plan(&route.topic, Some(session)));
            }
            return route.clone();
        }
        if self.by_name.len() >= MOST {
            self.by_name.clear();
        }
        let published: Arc<str> = name.into();
        let topic = core.gate.rename(who, name).unwrap_or_else(|| Arc::clone(&published));
        let route = Route {
            decision: core.gate.may_publish(who, &topic),
            plan: Arc::new(core.router.plan(&topic, Some(session))),
            topic,
        };
        self.by_name.insert(published, route.clone());
        route
    }
}
