//! Packets built by hand from the OASIS texts: nothing here shares code with the broker.

pub fn text(text: &str) -> Vec<u8> {
    bytes(text.as_bytes())
}

pub fn bytes(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u16).to_be_bytes().to_vec();
    out.extend(bytes);
    out
}

pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    out.extend(varint(body.len()));
    out.extend(body);
    out
}

pub fn varint(mut number: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = (number & 0x7F) as u8;
        number >>= 7;
        if number == 0 {
            out.push(low);
            return out;
        }
        out.push(low | 0x80);
    }
}

/// Properties with their length in front.
pub fn properties(list: &[u8]) -> Vec<u8> {
    let mut out = varint(list.len());
    out.extend(list);
    out
}

/// Topic, payload, QoS, retain, properties.
pub type Will = (String, Vec<u8>, u8, bool, Vec<u8>);

#[derive(Clone)]
pub struct Connect {
    pub level: u8,
    pub clean: bool,
    pub keep_alive: u16,
    pub client_id: String,
    pub properties: Vec<u8>,
    pub will: Option<Will>,
    pub user_name: Option<String>,
    pub password: Option<Vec<u8>>,
}

impl Connect {
    pub fn v5(client_id: &str) -> Self {
        Self {
            level: 5,
            clean: true,
            keep_alive: 60,
            client_id: client_id.to_owned(),
            properties: Vec::new(),
            will: None,
            user_name: None,
            password: None,
        }
    }

    /// Version 4 or 5.
    pub fn of(level: u8, client_id: &str) -> Self {
        Self { level, ..Self::v5(client_id) }
    }

    /// Without clean start or clean session; nothing else.
    pub fn resuming(mut self) -> Self {
        self.clean = false;
        self
    }

    pub fn v311(client_id: &str) -> Self {
        Self { level: 4, ..Self::v5(client_id) }
    }

    /// MQTT 5: Session Expiry Interval and no clean start; 3.1.1: no clean session.
    pub fn persistent(mut self) -> Self {
        self.clean = false;
        if self.level == 5 {
            self.properties.extend([0x11, 0, 0, 0x0E, 0x10]);
        }
        self
    }

    pub fn property(mut self, property: &[u8]) -> Self {
        self.properties.extend(property);
        self
    }

    pub fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }

    pub fn will(mut self, topic: &str, payload: &str, qos: u8, retain: bool, properties: &[u8]) -> Self {
        self.will = Some((topic.to_owned(), payload.into(), qos, retain, properties.to_vec()));
        self
    }

    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.user_name = Some(name.to_owned());
        self.password = Some(password.into());
        self
    }

    pub fn build(&self) -> Vec<u8> {
        let mut body = text("MQTT");
        let mut flags = u8::from(self.clean) << 1;
        if let Some((_, _, qos, retain, _)) = &self.will {
            flags |= 4 | qos << 3 | u8::from(*retain) << 5;
        }
        flags |= u8::from(self.user_name.is_some()) << 7 | u8::from(self.password.is_some()) << 6;
        body.extend([self.level, flags]);
        body.extend(self.keep_alive.to_be_bytes());
        if self.level == 5 {
            body.extend(properties(&self.properties));
        }
        body.extend(text(&self.client_id));
        if let Some((topic, payload, _, _, list)) = &self.will {
            if self.level == 5 {
                body.extend(properties(list));
            }
            body.extend(text(topic));
            body.extend(bytes(payload));
        }
        body.extend(self.user_name.iter().flat_map(|name| text(name)));
        body.extend(self.password.iter().flat_map(|password| bytes(password)));
        packet(0x10, &body)
    }
}

/// PUBLISH; `list` is `None` on 3.1.1.
pub fn publish(flags: u8, topic: &str, id: u16, list: Option<&[u8]>, payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if flags & 6 != 0 {
        body.extend(id.to_be_bytes());
    }
    if let Some(list) = list {
        body.extend(properties(list));
    }
    body.extend(payload);
    packet(0x30 | flags, &body)
}

pub fn subscribe(id: u16, list: Option<&[u8]>, filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if let Some(list) = list {
        body.extend(properties(list));
    }
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}

pub fn unsubscribe(id: u16, list: Option<&[u8]>, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if let Some(list) = list {
        body.extend(properties(list));
    }
    filters.iter().for_each(|filter| body.extend(text(filter)));
    packet(0xA2, &body)
}

pub fn ack(first: u8, id: u16) -> Vec<u8> {
    packet(first, &id.to_be_bytes())
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP of MQTT 5 with a reason code.
pub fn ack_code(first: u8, id: u16, code: u8) -> Vec<u8> {
    packet(first, &[&id.to_be_bytes()[..], &[code]].concat())
}

/// A property of two bytes.
pub fn two(id: u8, value: u16) -> Vec<u8> {
    [&[id][..], &value.to_be_bytes()].concat()
}

/// A property of four bytes.
pub fn four(id: u8, value: u32) -> Vec<u8> {
    [&[id][..], &value.to_be_bytes()].concat()
}

/// A property of text.
pub fn string(id: u8, value: &str) -> Vec<u8> {
    [&[id][..], &text(value)].concat()
}

/// A user property.
pub fn user(name: &str, value: &str) -> Vec<u8> {
    [&[0x26][..], &text(name), &text(value)].concat()
}

/// Reads a variable byte integer: value and length.
pub fn read_varint(bytes: &[u8]) -> (usize, usize) {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return (value, index + 1);
        }
    }
    panic!("not a variable byte integer: {bytes:02x?}");
}

/// Takes a list of properties (without its length) apart: number and bytes of the value.
pub fn read_properties(mut rest: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some((&id, behind)) = rest.split_first() {
        let string = |at: usize| 2 + usize::from(u16::from_be_bytes([behind[at], behind[at + 1]]));
        let length = match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => 1,
            0x13 | 0x21 | 0x22 | 0x23 => 2,
            0x02 | 0x11 | 0x18 | 0x27 => 4,
            0x0B => read_varint(behind).1,
            0x26 => string(0) + string(string(0)),
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => string(0),
            other => panic!("no property {other:#x}"),
        };
        found.push((id, behind[..length].to_vec()));
        rest = &behind[length..];
    }
    found
}
