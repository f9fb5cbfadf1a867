//! A field device as its driver declares it now. Most stay as they are configured; one that grows gets points while it runs,
//! and whoever holds it sees them: the router, the console, `point list`.

use std::sync::Arc;

use fieldgate_protocol::{FieldDevice, Point};
use fieldgate_types::{Current, DeviceId};

/// A field device. Cheap to clone, and each clone is the same one.
#[derive(Debug, Clone)]
pub struct Declared {
    /// Its id, which never changes.
    pub id: DeviceId,
    now: Arc<Current<FieldDevice>>,
}

impl Declared {
    /// As its driver declares it before anything is connected.
    pub fn new(device: FieldDevice) -> Self {
        Self { id: device.id.clone(), now: Arc::new(Current::new(device)) }
    }

    /// With the points that it has now.
    pub fn now(&self) -> Arc<FieldDevice> {
        self.now.get()
    }

    /// It has these points from now on. Whether they are others than before.
    pub fn set_points(&self, points: Vec<Arc<Point>>) -> bool {
        let before = self.now();
        let same = before.points == points;
        if !same {
            self.now.set(FieldDevice { points, ..FieldDevice::clone(&before) });
        }
        !same
    }
}
