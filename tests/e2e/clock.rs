//! A clock that leaps ten years, either way, while the gateway runs. The clock is moved by hand, so the gateway runs in the
//! test.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fieldgate::app::App;
use fieldgate::identity::Wanted;
use fieldgate::{config, upkeep};
use fieldgate_certs::Role;
use fieldgate_testkit::{Ack, Bundle, Leaf, Options, Version};
use fieldgate_types::{Clock, DeviceId, ManualClock, SystemClock, UnixMillis};

use crate::stage::Told;

const TEN_YEARS: Duration = Duration::from_hours(10 * 365 * 24);
const TOPIC: &str = "devices/press-1/telemetry/t";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leap_of_ten_years_either_way_ends_no_session_refuses_no_device_and_issues_nothing_wrong() -> Told {
    let folder = tempfile::tempdir()?;
    let text = "[gateway]\nid = \"line-1\"\n[broker]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n";
    let config = config::read("gateway.toml", folder.path(), text).config.context("no configuration")?;
    let clock = Arc::new(ManualClock::new(SystemClock::new().now()));
    let app = App::start(config, Arc::clone(&clock) as _).await?;
    let overview = Arc::clone(app.overview());
    let (authority, broker) = (&overview.authority, overview.broker.local_addrs()[0]);
    let issued = authority.add(&DeviceId::new("press-1")?, &Wanted::as_role(Role::App), None)?;
    std::fs::write(folder.path().join("cert.pem"), &issued.certificate_pem)?;
    std::fs::write(folder.path().join("ca.pem"), &issued.ca_pem)?;
    std::fs::write(folder.path().join("key.pem"), issued.key_pem.as_ref().context("no key")?.expose())?;
    let bundle = Bundle::new("press-1", folder.path().to_owned());
    let connect = async |client: &str| {
        let options = Options { client_id: Some(client.to_owned()), ..Options::new(Version::V5) };
        Leaf::connect(&bundle, broker, options).await
    };
    let staying = connect("press-1/stays").await?;

    let right = clock.now();
    let behind = UnixMillis(right.0 - u64::try_from(TEN_YEARS.as_millis())?);
    for (number, wrong) in [right.plus(TEN_YEARS), behind].into_iter().enumerate() {
        clock.step_to(wrong);
        upkeep::end_superseded(&overview).await;
        // A program may publish nowhere by itself; that it is told so shows that it is there.
        assert_eq!(staying.publish(TOPIC, "1").await?, Ack::Refused(0x87));
        let newcomer = connect(&format!("press-1/{number}")).await.context("refused with the clock at fault")?;
        assert_eq!(newcomer.publish(TOPIC, "1").await?, Ack::Refused(0x87));
        let other = DeviceId::new(&format!("press-{}", number + 2))?;
        let added = authority.add(&other, &Wanted::as_role(Role::Device), None);
        if wrong > right {
            // It may be right, and then what was before is wrong.
            let why = added.map(|issued| issued.certificate_pem).unwrap_err().to_string();
            assert!(why.contains("nothing is issued until it is certain which is right"), "{why}");
            assert!(authority.registry.device(&other).is_none(), "registered without a certificate");
        } else {
            // It can't be right: certificates were issued since. They go on being issued by the time that is.
            let record = added?.record;
            let off = record.not_before.since(right).max(right.since(record.not_before));
            assert!(off <= Duration::from_hours(25), "dated by the wrong clock: {record:?}");
        }
        assert!(staying.ended().is_none(), "{:?}", staying.ended());

        clock.step_to(right);
        let after = DeviceId::new(&format!("press-{}", number + 4))?;
        authority.add(&after, &Wanted::as_role(Role::Device), None)?;
    }
    app.stop().await;
    Ok(())
}
