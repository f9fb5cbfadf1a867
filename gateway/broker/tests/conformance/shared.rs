//! Shared subscriptions.

use crate::LEVELS;
use crate::support::packets::{self, Connect, ack_code, four};
use crate::support::{Client, Plant, until};

async fn members<const N: usize>(plant: &Plant, filter: &str, qos: u8) -> [Client; N] {
    let mut members = Vec::new();
    for number in 0..N {
        let mut client = plant.app(5, &format!("m{number}")).await;
        assert_eq!(client.subscribe(filter, qos).await, qos);
        members.push(client);
    }
    members.try_into().ok().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_4_8_2_1_and_4_8_2_2_shared_filters_have_a_name_and_a_filter() {
    let plant = Plant::open().await;
    for filter in
        ["$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/g+/a", "$share/#/a", "$share/g/a#"]
    {
        let mut client = plant.app(5, "1").await;
        client.send(&packets::subscribe(7, Some(&[]), &[(filter, 0)])).await;
        let answer = client.read().await.unwrap();
        let refused = match answer.first {
            0x90 => answer.body[3] == 0x8F,
            0xE0 => matches!(answer.body[0], 0x81 | 0x82 | 0x8F),
            _ => false,
        };
        assert!(refused, "{filter}: {answer:02x?}");
    }
    assert_eq!(plant.broker.metrics().subscriptions, 0);
    let mut client = plant.app(5, "1").await;
    for filter in ["$share/g/a", "$share/a name/#", "$share/g//", "$share/$/+"] {
        assert_eq!(client.subscribe(filter, 0).await, 0, "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_group_gets_a_message_once_and_its_members_share_it() {
    let plant = Plant::open().await;
    let mut members = members::<3>(&plant, "$share/g/a/#", 1).await;
    let mut other = plant.app(5, "other").await;
    other.subscribe("$share/h/a/#", 1).await;
    let mut plain = plant.app(5, "plain").await;
    plain.subscribe("a/#", 1).await;
    let mut publisher = plant.app(5, "publisher").await;
    for number in 0..30 {
        publisher.deliver(2, "a/b", &[], &format!("{number}")).await;
        assert_eq!(plain.receive().await.text(), format!("{number}"));
        assert_eq!(other.receive().await.text(), format!("{number}"));
    }
    for member in &mut members {
        for _ in 0..10 {
            member.receive().await;
        }
        member.quiet().await;
    }
    // Who leaves gets nothing more; who has both kinds gets both.
    members[0].send(&packets::unsubscribe(9, Some(&[]), &["$share/g/a/#"])).await;
    assert_eq!(members[0].read().await.unwrap().body, [0, 9, 0, 0]);
    members[1].subscribe("a/b", 0).await;
    for _ in 0..4 {
        publisher.deliver(2, "a/b", &[], "x").await;
    }
    members[0].quiet().await;
    for _ in 0..6 {
        members[1].receive().await;
    }
    members[1].quiet().await;
    for _ in 0..2 {
        members[2].receive().await;
    }
    members[2].quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_4_8_2_3_a_members_granted_qos_counts() {
    let plant = Plant::open().await;
    for granted in 0..=2 {
        let [mut member] = members::<1>(&plant, "$share/g/a", granted).await;
        let mut publisher = plant.app(5, "publisher").await;
        for published in 0..=2 {
            publisher.deliver(published << 1, "a", &[], "x").await;
            let got = member.receive().await;
            assert_eq!(got.qos, granted.min(published));
            if got.qos == 2 {
                member.complete(got.id).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_subscriptions_get_no_retained_messages() {
    let plant = Plant::open().await;
    for level in LEVELS {
        let mut publisher = plant.app(level, "publisher").await;
        publisher.deliver(3, "a", &[], "kept").await;
        let mut member = plant.app(level, "1").await;
        member.subscribe("$share/g/a", 1).await;
        member.quiet().await;
        publisher.deliver(3, "a", &[], "live").await;
        let got = member.receive().await;
        assert_eq!((got.text(), got.retain), ("live", false));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_4_8_2_4_qos_2_is_finished_with_the_member_that_it_was_begun_with() {
    let plant = Plant::open().await;
    let connect = Connect::v5("app/first").persistent();
    let (mut first, _) = plant.app_with(connect.clone()).await;
    first.subscribe("$share/g/a", 2).await;
    let mut publisher = plant.app(5, "publisher").await;
    publisher.deliver(4, "a", &[], "begun").await;
    let begun = first.receive_only().await;
    publisher.deliver(4, "a", &[], "received").await;
    let received = first.receive_only().await;
    first.send(&packets::ack(0x50, received.id)).await;
    assert_eq!(first.acked(0x62).await, (received.id, 0));
    let mut second = plant.app(5, "second").await;
    second.subscribe("$share/g/a", 2).await;
    drop(first);
    until("gone", || async { plant.broker.metrics().connections == 2 }).await;
    // The connected member gets what is new, and nothing of the other's.
    publisher.deliver(4, "a", &[], "new").await;
    let got = second.receive_only().await;
    assert_eq!(got.text(), "new");
    second.complete(got.id).await;
    second.quiet().await;
    let (mut first, present) = plant.app_with(connect).await;
    assert!(present);
    let again = first.receive_only().await;
    assert_eq!((again.dup, again.id, again.text()), (true, begun.id, "begun"));
    assert_eq!(first.acked(0x62).await, (received.id, 0));
    first.complete(begun.id).await;
    first.send(&packets::ack(0x70, received.id)).await;
    first.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_4_8_2_5_and_4_8_2_6_what_a_member_loses_or_refuses_goes_to_no_other() {
    let plant = Plant::open().await;
    let connect = Connect::v5("app/first").property(&four(0x11, 1));
    let (mut first, _) = plant.app_with(connect).await;
    first.subscribe("$share/g/a", 2).await;
    let mut publisher = plant.app(5, "publisher").await;
    for flags in [2, 4] {
        publisher.deliver(flags, "a", &[], "refused").await;
        let got = first.receive_only().await;
        first.send(&ack_code(if got.qos == 1 { 0x40 } else { 0x50 }, got.id, 0x97)).await;
        first.quiet().await;
    }
    publisher.deliver(4, "a", &[], "lost").await;
    first.receive_only().await;
    let mut second = plant.app(5, "second").await;
    second.subscribe("$share/g/a", 2).await;
    drop(first);
    until("expired", || async { plant.broker.metrics().sessions == 2 }).await;
    second.quiet().await;
    publisher.deliver(2, "a", &[], "new").await;
    assert_eq!(second.receive().await.text(), "new");
    second.quiet().await;
}
