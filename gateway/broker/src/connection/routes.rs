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
    by_name: HashMap<Arc<str>, Route>,
    /// Generation of rights that the decisions belong to.
    rights: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Route {
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
                route.plan = Arc::new(core.router.plan(name, Some(session)));
            }
            return route.clone();
        }
        if self.by_name.len() >= MOST {
            self.by_name.clear();
        }
        let route = Route {
            topic: name.into(),
            decision: core.gate.may_publish(who, name),
            plan: Arc::new(core.router.plan(name, Some(session))),
        };
        self.by_name.insert(Arc::clone(&route.topic), route.clone());
        route
    }
}
