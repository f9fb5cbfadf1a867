//! From the handshake to the attached session: the CONNECT, every reason to refuse it, and the life of the
//! connection behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::goodbye;
use super::handshake::{Arrived, Credentials};
use super::listener::PendingGuard;
use crate::codec::{Connect, Fault, Incoming, connect_version, decode, encode, frame};
use crate::connection::{Attached, Connection};
use crate::core::Core;
use crate::durable::{self, Meta, StoredWill};
use crate::registry::{Attach, Live, Newcomer};
use crate::{Decision, DisconnectReason, Event, Identity, Limits, Role, Version, topic};

/// Longest client id: `id/…` of an app.
const CLIENT_ID: usize = 256;

/// Bytes of a CONNACK with everything that an accepted connection may be told.
const CONNACK: usize = 24;
/// And with an assigned client id, beside the id itself: its property, and a longer length in two places.
const ASSIGNED: usize = 5;

/// Why a CONNECT is refused: the reason code of MQTT 5 and words for the audit log.
struct Refused {
    code: u8,
    words: String,
}

impl Refused {
    fn new(code: u8, words: impl Into<String>) -> Self {
        Self { code, words: words.into() }
    }
}

/// Serves a connection from its CONNECT to its end.
pub(super) async fn greet<S>(core: Arc<Core>, arrived: Arrived<S>, guard: PendingGuard)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Arrived { mut stream, peer, credentials } = arrived;
    let mut input = BytesMut::new();
    let limits = core.limits.get();
    let reading = read_connect(&mut stream, &mut input, &limits);
    let read = tokio::select! {
        // Only here and before may a newcomer push it out: an attached session is handed back properly.
        () = guard.evicted.cancelled() => return,
        read = tokio::time::timeout(limits.connect_timeout, reading) => read,
    };
    let mut who = match &credentials {
        Credentials::Certificate(Ok(identity)) => Some(Arc::clone(&identity.id)),
        Credentials::Certificate(Err(refusal)) => refusal.who.clone(),
        Credentials::Password => None,
    };
    let (version, connect) = match read {
        Ok(Some(read)) => read,
        Ok(None) => return,
        Err(_) => {
            core.counters.handshake_timeouts.one();
            core.gate.event(Event::Refused { who, peer, code: None, words: "no CONNECT in time".to_owned() });
            return;
        }
    };
    let limit = connect.as_ref().map_or(usize::MAX, |connect| connect.maximum_packet);
    let recognising = async { Some(recognise(&core, credentials, connect, peer).await) };
    let Some(recognised) = guard.unless_evicted(recognising).await else { return };
    who = recognised.as_ref().map_or(who, |(identity, _)| Some(Arc::clone(&identity.id)));
    let admitted = match recognised.and_then(|(identity, connect)| vet(&core, identity, connect)) {
        Err(refused) => Err(refused),
        Ok(vetted) => {
            let penalty = core.penalties.delay(&vetted.who.id, core.clock.monotonic());
            tokio::select! {
                () = guard.evicted.cancelled() => return,
                () = tokio::time::sleep(penalty) => {}
            }
            admit(&core, vetted, peer, input).await
        }
    };
    match admitted {
        Ok(attached) => {
            drop(guard);
            // A task of its own: this one, with the handshake and all that greeting needed, ends here.
            core.tasks.spawn(serve(attached, stream));
        }
        Err(refused) => {
            core.counters.refused.one();
            core.gate.event(Event::Refused { who, peer, code: Some(refused.code), words: refused.words.clone() });
            let mut output = BytesMut::new();
            if let Some(version) = version {
                let reason = Some(refused.words.as_str()).filter(|words| words.len() < 200);
                let details = encode::ConnackDetails { reason, ..encode::ConnackDetails::default() };
                encode::connack(&mut output, version, false, refused.code, &details, limit);
            }
            goodbye::close(stream, output).await;
        }
    }
}

/// Reads until the CONNECT is there in full. `None`: the peer is gone. The outer `None` of the version means that
/// it can't be told, so that no CONNACK would be understood.
async fn read_connect(
    stream: &mut (impl AsyncReadExt + Unpin),
    input: &mut BytesMut,
    limits: &Limits,
) -> Option<(Option<Version>, Result<Connect, Fault>)> {
    loop {
        let frame = match frame(input, limits.connect_packet) {
            // The first packet must be a CONNECT [MQTT-3.1.0-1]: judged by its first byte.
            Ok(_) if input.first().is_some_and(|first| first >> 4 != 1) => {
                return Some((None, Err(Fault::Protocol)));
            }
            Ok(frame) => frame,
            // Its version may be told from what has come of it.
            Err(fault) => {
                let length = input.iter().skip(1).take_while(|byte| **byte & 0x80 != 0).count();
                return Some((input.get(2 + length..).and_then(connect_version), Err(fault)));
            }
        };
        if let Some(frame) = frame.filter(|frame| input.len() >= frame.len()) {
            let version = connect_version(frame.body_of(input));
            let connect = match decode(version.unwrap_or(Version::V311), frame, input) {
                Ok(Incoming::Connect(connect)) => Ok(*connect),
                Ok(_) => Err(Fault::Protocol),
                Err(fault) => Err(fault),
            };
            // A client of an unknown version is told so in the form of 3.1.1 [MQTT-3.1.2-2].
            let version = version.or_else(|| (connect == Err(Fault::Version)).then_some(Version::V311));
            input.advance(frame.len());
            return Some((version, connect));
        }
        input.reserve(512);
        match stream.read_buf(input).await {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

/// A CONNECT that may attach a session.
struct Vetted {
    who: Arc<Identity>,
    client_id: Arc<str>,
    connect: Connect,
}

/// Who this is, where the CONNECT can be understood: by its certificate, whatever user name and password say, or by
/// those.
async fn recognise(
    core: &Core,
    credentials: Credentials,
    connect: Result<Connect, Fault>,
    peer: SocketAddr,
) -> Result<(Arc<Identity>, Connect), Refused> {
    let mut connect = connect.map_err(|fault| Refused::new(fault.code(), fault.to_string()))?;
    if connect.authentication_method {
        return Err(Refused::new(0x8C, "no authentication methods are known here: a certificate or a password is"));
    }
    let (name, password) = (connect.user_name.take(), connect.password.take());
    let identity = match (credentials, &name, &password) {
        (Credentials::Certificate(identity), _, _) => identity.map_err(|refusal| refused(0x87, refusal))?,
        (Credentials::Password, Some(name), Some(password)) => {
            let identified = core.gate.identify_user(name, password.expose(), peer).await;
            Arc::new(identified.map_err(|refusal| refused(BAD_USER, refusal))?)
        }
        (Credentials::Password, _, _) => {
            return Err(Refused::new(BAD_USER, "a user name and a password are needed on this port"));
        }
    };
    Ok((identity, connect))
}

/// Bad user name or password.
const BAD_USER: u8 = 0x86;

fn refused(usual: u8, refusal: crate::Refusal) -> Refused {
    Refused::new(refusal.code.unwrap_or(usual), refusal.words)
}

/// Everything that must hold before a session is attached.
fn vet(core: &Core, who: Arc<Identity>, mut connect: Connect) -> Result<Vetted, Refused> {
    let client_id = client_id(core, &who, &connect.client_id)?;
    let assigned = if connect.client_id.is_empty() { ASSIGNED + client_id.len() } else { 0 };
    if connect.maximum_packet < CONNACK + assigned {
        return Err(Refused::new(0x95, "no CONNACK fits into the client's Maximum Packet Size"));
    }
    check_will(core, &who, &mut connect)?;
    Ok(Vetted { who, client_id, connect })
}

/// Attaches the session.
async fn admit(core: &Arc<Core>, vetted: Vetted, peer: SocketAddr, input: BytesMut) -> Result<Attached, Refused> {
    let Vetted { who, client_id, connect } = vetted;
    core.gate.still_valid(&who).map_err(|refusal| Refused::new(0x87, refusal.words))?;
    let live = Arc::new(Live {
        peer,
        since: core.clock.now(),
        version: connect.version,
        messages_in: AtomicU64::new(0),
        messages_out: AtomicU64::new(0),
        ended: CancellationToken::new(),
    });
    // Before the questions below: a change of rights behind it is noticed by the connection.
    let rights = core.rights();
    let limits = core.limits.get();
    let durable = !connect.session_expiry.min(limits.session_expiry).is_zero();
    let newcomer = Newcomer { who: &who, client_id: &client_id, clean: connect.clean, durable, live: &live };
    let (session, inbox, present, replaced) = attach(core, &newcomer, &limits).await?;
    let mut attached = Attached {
        core: Arc::clone(core),
        who: Arc::clone(&who),
        keep_alive: keep_alive(&connect, &limits),
        limits,
        connect,
        session,
        inbox,
        live,
        rights,
        input,
        output: BytesMut::new(),
    };
    // Asked again now that a revocation would find this connection: one of the two sees the other.
    if let Err(refusal) = core.gate.still_valid(&who) {
        Connection::new(attached).hand_back(DisconnectReason::Revoked, false).await;
        return Err(Refused::new(0x87, refusal.words));
    }
    // What the CONNACK says about the session holds over a crash.
    if (attached.inbox.durable || replaced)
        && let Err(refused) = remember(&attached).await
    {
        Connection::new(attached).hand_back(DisconnectReason::StoreFailed, false).await;
        return Err(refused);
    }
    attached.output = accepted(&attached, &client_id, present);
    core.counters.connected.one();
    core.gate.event(Event::Connected {
        who,
        client_id,
        peer,
        version: attached.connect.version,
        session_present: present,
    });
    Ok(attached)
}

/// Makes the session durable as it is from now on, and the end of the one that it replaced.
async fn remember(attached: &Attached) -> Result<(), Refused> {
    let Attached { core, limits, who, connect, inbox, .. } = attached;
    let will =
        connect.will.clone().map(|will| StoredWill { delay: will.delay, message: will.message(core.clock.now()) });
    let meta = Meta {
        client_id: Arc::clone(&inbox.client_id),
        who: Arc::clone(who),
        expiry: connect.session_expiry.min(limits.session_expiry),
        parked: None,
        will,
    };
    let change = inbox.durable.then(|| durable::session(inbox.key, &meta));
    match tokio::time::timeout(limits.connect_timeout, core.scribe.write(change)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Refused::new(0x88, format!("the session can't be stored: {error}"))),
        Err(_) => Err(Refused::new(0x88, "the store doesn't answer")),
    }
}

/// The client id is the identity's id and nothing else (DESIGN section 4). One that is left out is assigned: of an
/// app, which may have several, one that no other session has [MQTT-3.2.2-16].
fn client_id(core: &Core, who: &Identity, asked: &str) -> Result<Arc<str>, Refused> {
    if asked.is_empty() && who.role == Role::App {
        return Ok(core.registry.unused_client_id(&who.id));
    }
    if asked.is_empty() || asked == &*who.id {
        return Ok(Arc::clone(&who.id));
    }
    let of_app = who.role == Role::App
        && asked.len() <= CLIENT_ID
        && asked.strip_prefix(&*who.id).is_some_and(|rest| rest.starts_with('/') && !rest.contains(['+', '#', '\0']));
    if of_app {
        return Ok(asked.into());
    }
    let shown: String = asked.chars().take(80).collect();
    let words = format!("client id `{shown}` is not the identity's: use `{}` or an empty one", who.id);
    Err(Refused::new(0x85, words))
}

fn check_will(core: &Core, who: &Arc<Identity>, connect: &mut Connect) -> Result<(), Refused> {
    let Some(will) = &mut connect.will else { return Ok(()) };
    let limits = core.limits.get();
    if will.topic.len() > limits.topic || topic::levels(&will.topic) > limits.topic_levels {
        return Err(Refused::new(0x90, "the will's topic is too long or has too many levels"));
    }
    if will.properties.utf8_payload == Some(true) && std::str::from_utf8(&will.payload).is_err() {
        return Err(Refused::new(0x99, "the will's payload is not the UTF-8 that it claims to be"));
    }
    if let Some(renamed) = core.gate.rename(who, &will.topic) {
        will.topic = renamed;
    }
    if core.gate.may_publish(who, &will.topic) == Decision::Deny {
        core.counters.publish_refused.one();
        let topic = Arc::clone(&will.topic);
        core.gate.event(Event::PublishRefused { who: Arc::clone(who), topic, code: 0x87 });
        return Err(Refused::new(0x87, format!("the will may not be published to `{}`", will.topic)));
    }
    Ok(())
}

/// Takes the session, from an older connection if need be: that one is asked to end, and hands it back. The session,
/// its inbox, whether it was there before, and whether another one ended for it.
async fn attach(
    core: &Arc<Core>,
    newcomer: &Newcomer<'_>,
    limits: &Limits,
) -> Result<(crate::session::Session, Arc<crate::inbox::Inbox>, bool, bool), Refused> {
    let deadline = tokio::time::Instant::now() + TAKE_OVER + limits.full_queue_wait;
    loop {
        match core.registry.attach(newcomer, limits, &core.budget) {
            Attach::In { session, inbox, present, replaced } => {
                let any = replaced.is_some();
                if let Some(ended) = replaced {
                    core.end_session(*ended);
                }
                return Ok((session, inbox, present, any));
            }
            Attach::Wait(ended) => {
                core.counters.took_over.one();
                core.gate.event(Event::TookOver {
                    who: Arc::clone(newcomer.who),
                    client_id: Arc::clone(newcomer.client_id),
                    by: newcomer.live.peer,
                });
                if tokio::time::timeout_at(deadline, ended.cancelled()).await.is_err() {
                    return Err(Refused::new(0x88, "the older connection still waits for the store"));
                }
            }
            Attach::Full(words) => return Err(Refused::new(0x97, words)),
            Attach::Closed => return Err(Refused::new(0x88, "the broker is stopping")),
        }
    }
}

/// The older connection gives up its commits after five seconds; a little more than that.
const TAKE_OVER: Duration = Duration::from_secs(6);

/// 0 asks for none: MQTT 5 clients get the server's; 3.1.1 clients are watched by TCP alone.
fn keep_alive(connect: &Connect, limits: &Limits) -> Option<Duration> {
    match (connect.keep_alive, connect.version) {
        (0, Version::V311) => None,
        (0, Version::V5) => Some(limits.keep_alive).filter(|keep_alive| !keep_alive.is_zero()),
        (seconds, _) => Some(Duration::from_secs(u64::from(seconds))),
    }
}

fn accepted(attached: &Attached, client_id: &str, present: bool) -> BytesMut {
    let Attached { connect, limits, keep_alive, .. } = attached;
    let granted = connect.session_expiry.min(limits.session_expiry);
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    let server_keep_alive = keep_alive.filter(|_| connect.keep_alive == 0);
    let details = encode::ConnackDetails {
        session_expiry: (granted != connect.session_expiry).then(|| seconds(granted)),
        receive_maximum: Some(limits.receive_maximum),
        maximum_packet: Some(u32::try_from(limits.packet).unwrap_or(u32::MAX)),
        assigned_client_id: connect.client_id.is_empty().then_some(client_id),
        topic_alias_maximum: Some(limits.topic_alias_maximum).filter(|maximum| *maximum > 0),
        server_keep_alive: server_keep_alive.map(|k| u16::try_from(k.as_secs()).unwrap_or(u16::MAX)),
        reason: None,
    };
    let mut output = BytesMut::new();
    encode::connack(&mut output, connect.version, present, 0, &details, connect.maximum_packet);
    output
}

/// The life of the connection and its end. Most of the time there are many of these and little happens in them, so
/// the future holds the connection once, and what only its end needs is made when it ends.
fn serve<S>(attached: Attached, mut stream: S) -> impl Future<Output = ()> + Send
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let version = attached.connect.version;
    let problem_information = attached.connect.problem_information;
    let limit = attached.connect.maximum_packet;
    let mut connection = Connection::new(attached);
    async move {
        let reason = connection.serve(&mut stream).await;
        let mut output = connection.take_output();
        match reason {
            DisconnectReason::Client | DisconnectReason::ClientWithWill | DisconnectReason::Network => output.clear(),
            _ if version == Version::V5 => {
                encode::disconnect(&mut output, reason.code(), problem_information.then(|| reason.word()), limit);
            }
            _ => {}
        }
        // The session goes back before the socket is drained: a client that was told to go comes back at once.
        Box::pin(async move { tokio::join!(connection.hand_back(reason, true), goodbye::close(stream, output)) }).await;
    }
}
