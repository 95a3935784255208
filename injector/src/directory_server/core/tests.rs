//! What is answered about clusters of a few objects, and that it does not depend on the order in which they came.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use mantlet_redirect::PortRange;
use proptest::prelude::*;

use super::{
    model::{Claim, Key, Pod, PodPorts, Protocol, ServedBy, Service, Slice, SliceEndpoint, Stage},
    resolve::{Endpoint, Says},
    review::Finding,
    store::{Change, Store},
};

const HEALTH: u16 = 24190;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn id(account: &str) -> Arc<str> {
    format!("spiffe://prod.test/ns/shop/sa/{account}").into()
}

/// A pod with a sidecar, with HTTP on 8080 and bytes on 5432.
fn pod(name: &str, address: &str, account: &str) -> Pod {
    Pod {
        key: Key::new("shop", name),
        claim: Claim { is_staying: true, created: "2026-01-01T00:00:00Z".into() },
        ips: [ip(address)].into(),
        id: Some(id(account)),
        is_injected: true,
        is_host_network: false,
        is_over: false,
        ports: Arc::new(PodPorts {
            skipped: [PortRange::new(9000, 9010).unwrap()].into(),
            protocols: [(5432, 5432, Protocol::Opaque), (8080, 8080, Protocol::Http)].into(),
        }),
    }
}

fn plain(name: &str, address: &str) -> Pod {
    Pod { is_injected: false, ports: Arc::default(), ..pod(name, address, "plain") }
}

/// A Service on port 80, named `http`, to 8080.
fn service(name: &str, address: &str) -> Service {
    Service {
        key: Key::new("shop", name),
        uid: "u".into(),
        ips: [ip(address)].into(),
        ports: [(80, "http".into())].into(),
        keeps_address: false,
        served_by: ServedBy::Anybody,
    }
}

fn slice(service: &str, endpoints: &[(&str, Option<&str>, Stage)]) -> Slice {
    let endpoints = endpoints.iter().map(|(address, pod, stage)| SliceEndpoint {
        ip: ip(address),
        pod: pod.map(Into::into),
        stage: *stage,
    });
    Slice {
        key: Key::new("shop", &format!("{service}-1")),
        service: Key::new("shop", service),
        ports: [("http".into(), 8080)].into(),
        endpoints: endpoints.collect(),
    }
}

fn ready<'s>(address: &'s str, pod: &'s str) -> (&'s str, Option<&'s str>, Stage) {
    (address, Some(pod), Stage::Ready)
}

fn store(pods: &[Pod], services: &[Service], slices: &[Slice]) -> Store {
    let mut store = Store::default();
    store.pods(Change::Replace(pods.to_vec()));
    store.services(Change::Replace(services.to_vec()));
    store.slices(Change::Replace(slices.to_vec()));
    store
}

fn meshed(endpoints: &[(&str, u16, &str, Protocol)]) -> Says {
    let endpoints = endpoints.iter().map(|(address, port, account, protocol)| Endpoint {
        ip: ip(address),
        port: *port,
        id: id(account),
        protocol: *protocol,
    });
    Says::Meshed { endpoints: endpoints.collect(), keep_address: false }
}

/// What 10.96.0.1:80 is, with one Service there.
fn behind(pods: &[Pod], service: Service, endpoints: &[(&str, Option<&str>, Stage)]) -> Says {
    let slice = slice(&service.key.name, endpoints);
    store(pods, &[service], &[slice]).resolve(ip("10.96.0.1"), 80, HEALTH)
}

fn orders() -> Service {
    service("orders", "10.96.0.1")
}

#[test]
fn a_service_is_its_ready_endpoints_with_their_own_identities_and_protocols() {
    let pods =
        [pod("a", "10.1.0.1", "orders"), pod("b", "10.1.0.2", "orders"), pod("c", "10.1.0.3", "orders")];
    let endpoints = [ready("10.1.0.2", "b"), ready("10.1.0.1", "a"), ("10.1.0.3", Some("c"), Stage::Away)];
    let wanted =
        meshed(&[("10.1.0.1", 8080, "orders", Protocol::Http), ("10.1.0.2", 8080, "orders", Protocol::Http)]);
    assert_eq!(behind(&pods, orders(), &endpoints), wanted);
}

#[test]
fn endpoints_that_are_ending_take_over_where_nobody_is_ready() {
    let pods = [pod("a", "10.1.0.1", "orders"), pod("b", "10.1.0.2", "orders")];
    let last = ("10.1.0.1", Some("a"), Stage::LastResort);
    let wanted = meshed(&[("10.1.0.1", 8080, "orders", Protocol::Http)]);
    assert_eq!(behind(&pods, orders(), &[last, ("10.1.0.2", Some("b"), Stage::Away)]), wanted);
    let wanted = meshed(&[("10.1.0.2", 8080, "orders", Protocol::Http)]);
    assert_eq!(behind(&pods, orders(), &[last, ready("10.1.0.2", "b")]), wanted);
}

#[test]
fn a_service_that_is_partly_in_the_mesh_never_leads_to_plaintext() {
    let pods = [pod("a", "10.1.0.1", "orders"), plain("b", "10.1.0.2")];
    let wanted = meshed(&[("10.1.0.1", 8080, "orders", Protocol::Http)]);
    assert_eq!(behind(&pods, orders(), &[ready("10.1.0.1", "a"), ready("10.1.0.2", "b")]), wanted);
    // Even while the one in the mesh is not ready.
    let away = ("10.1.0.1", Some("a"), Stage::Away);
    assert_eq!(behind(&pods, orders(), &[away, ready("10.1.0.2", "b")]), meshed(&[]));
}

#[test]
fn a_service_without_any_sidecar_is_not_meshed_ready_or_not() {
    let pods = [plain("a", "10.1.0.1")];
    assert_eq!(behind(&pods, orders(), &[ready("10.1.0.1", "a")]), Says::NotMeshed);
    assert_eq!(behind(&pods, orders(), &[("10.1.0.1", Some("a"), Stage::Away)]), Says::NotMeshed);
}

#[test]
fn a_service_that_nobody_stands_behind_is_refused_rather_than_dialled_in_the_clear() {
    assert_eq!(behind(&[], orders(), &[]), meshed(&[]));
    let store = store(&[], &[orders()], &[]);
    assert_eq!(store.resolve(ip("10.96.0.1"), 80, HEALTH), meshed(&[]));
}

#[test]
fn a_ready_endpoint_whose_pod_is_not_known_yet_makes_the_address_unknown_and_never_plain() {
    let pods = [plain("a", "10.1.0.1")];
    let endpoints = [ready("10.1.0.1", "a"), ready("10.1.0.2", "b")];
    assert_eq!(behind(&pods, orders(), &endpoints), Says::Unknown);
    // One that nobody would be sent to can wait.
    let endpoints = [ready("10.1.0.1", "a"), ("10.1.0.2", Some("b"), Stage::Away)];
    assert_eq!(behind(&pods, orders(), &endpoints), Says::NotMeshed);
    // One in the mesh is enough to go on with.
    let pods = [pod("a", "10.1.0.1", "orders")];
    let wanted = meshed(&[("10.1.0.1", 8080, "orders", Protocol::Http)]);
    assert_eq!(behind(&pods, orders(), &[ready("10.1.0.1", "a"), ready("10.1.0.2", "b")]), wanted);
}

#[test]
fn an_address_that_a_slice_gives_to_another_pod_than_has_it_is_not_believed() {
    let pods = [pod("thief", "10.1.0.1", "thief")];
    assert_eq!(behind(&pods, orders(), &[ready("10.1.0.1", "a")]), Says::Unknown);
}

#[test]
fn a_service_of_addresses_outside_of_the_cluster_is_not_meshed() {
    assert_eq!(behind(&[], orders(), &[("192.0.2.1", None, Stage::Ready)]), Says::NotMeshed);
    // Its addresses may be pods with sidecars.
    let pods = [pod("a", "10.1.0.1", "orders")];
    let wanted = meshed(&[("10.1.0.1", 8080, "orders", Protocol::Http)]);
    assert_eq!(behind(&pods, orders(), &[("10.1.0.1", None, Stage::Ready)]), wanted);
}

#[test]
fn a_port_that_a_service_does_not_have_is_unknown() {
    let store =
        store(&[pod("a", "10.1.0.1", "orders")], &[orders()], &[slice("orders", &[ready("10.1.0.1", "a")])]);
    assert_eq!(store.resolve(ip("10.96.0.1"), 81, HEALTH), Says::Unknown);
    assert_eq!(store.resolve(ip("10.96.0.2"), 80, HEALTH), Says::Unknown);
}

#[test]
fn a_service_that_chooses_by_itself_keeps_its_address() {
    let kept = Service { keeps_address: true, ..orders() };
    let pods = [pod("a", "10.1.0.1", "orders")];
    let Says::Meshed { endpoints, keep_address: true } = behind(&pods, kept, &[ready("10.1.0.1", "a")])
    else {
        panic!("not kept");
    };
    assert_eq!(endpoints.len(), 1);
}

#[test]
fn each_address_family_has_the_endpoints_of_its_own() {
    let mut dual = orders();
    dual.ips = [ip("10.96.0.1"), ip("fd00::96")].into();
    let mut both = pod("a", "10.1.0.1", "orders");
    both.ips = [ip("10.1.0.1"), ip("fd00::1")].into();
    let mut six = slice("orders", &[ready("fd00::1", "a")]);
    six.key = Key::new("shop", "orders-6");
    let store = store(&[both], &[dual], &[slice("orders", &[ready("10.1.0.1", "a")]), six]);
    for (address, endpoint) in [("10.96.0.1", "10.1.0.1"), ("fd00::96", "fd00::1")] {
        let wanted = meshed(&[(endpoint, 8080, "orders", Protocol::Http)]);
        assert_eq!(store.resolve(ip(address), 80, HEALTH), wanted);
    }
}

#[test]
fn a_pod_by_its_own_address() {
    let over = Pod { is_over: true, ..pod("old", "10.1.0.4", "orders") };
    let store = store(&[pod("a", "10.1.0.1", "orders"), plain("b", "10.1.0.2"), over], &[], &[]);
    for (address, port, wanted) in [
        ("10.1.0.1", 8080, meshed(&[("10.1.0.1", 8080, "orders", Protocol::Http)])),
        ("10.1.0.1", 5432, meshed(&[("10.1.0.1", 5432, "orders", Protocol::Opaque)])),
        ("10.1.0.1", 1234, meshed(&[("10.1.0.1", 1234, "orders", Protocol::AskPeer)])),
        // What reaches the application as it is, and what the sidecar itself serves in the clear.
        ("10.1.0.1", 9005, Says::NotMeshed),
        ("10.1.0.1", HEALTH, Says::NotMeshed),
        ("10.1.0.2", 8080, Says::NotMeshed),
        ("10.1.0.4", 8080, Says::Unknown),
        ("10.1.0.9", 8080, Says::Unknown),
    ] {
        assert_eq!(store.resolve(ip(address), port, HEALTH), wanted, "{address}:{port}");
    }
}

#[test]
fn an_address_of_a_node_is_not_meshed_whatever_its_pods_are_labelled() {
    let host = Pod { is_host_network: true, ..pod("agent", "10.2.0.1", "agent") };
    let other = Pod { key: Key::new("shop", "other"), is_injected: false, ..host.clone() };
    let store = store(&[host, other], &[], &[]);
    assert_eq!(store.resolve(ip("10.2.0.1"), 8080, HEALTH), Says::NotMeshed);
}

#[test]
fn an_address_that_was_given_to_another_pod_is_the_younger_ones() {
    let old = Pod {
        claim: Claim { is_staying: false, created: "2026-06-01T00:00:00Z".into() },
        ..plain("old", "10.1.0.1")
    };
    let new = pod("new", "10.1.0.1", "orders");
    let wanted = meshed(&[("10.1.0.1", 8080, "orders", Protocol::Http)]);
    for pods in [[old.clone(), new.clone()], [new, old]] {
        assert_eq!(store(&pods, &[], &[]).resolve(ip("10.1.0.1"), 8080, HEALTH), wanted);
    }
}

#[test]
fn served_by_leaves_out_everybody_else_and_says_so() {
    let only = |ids: &[&str]| Service {
        served_by: ServedBy::OneOf(ids.iter().map(|account| id(account)).collect()),
        ..orders()
    };
    let pods = [pod("a", "10.1.0.1", "orders"), pod("b", "10.1.0.2", "impostor"), plain("c", "10.1.0.3")];
    let all = [ready("10.1.0.1", "a"), ready("10.1.0.2", "b"), ready("10.1.0.3", "c")];
    let wanted = meshed(&[("10.1.0.1", 8080, "orders", Protocol::Http)]);
    assert_eq!(behind(&pods, only(&["orders"]), &all), wanted);
    // Nobody who may: no connection, and none in the clear.
    assert_eq!(behind(&pods, only(&["nobody"]), &all), meshed(&[]));
    assert_eq!(behind(&pods, only(&["orders"]), &all[2..]), meshed(&[]));

    let store = store(&pods, &[only(&["orders"])], &[slice("orders", &all)]);
    let review = store.review(&Key::new("shop", "orders"), HEALTH);
    assert_eq!(review.left_out, 2);
    let [(Finding::NotServedBy, text)] = &review.findings[..] else { panic!("{review:?}") };
    assert!(text.contains("sa/impostor") && text.contains("without a sidecar"), "{text}");
}

#[test]
fn a_served_by_that_cannot_be_read_leaves_out_everybody() {
    let bad = Service { served_by: ServedBy::Nobody("\"x\" is no single identity".into()), ..orders() };
    let pods = [pod("a", "10.1.0.1", "orders")];
    assert_eq!(behind(&pods, bad.clone(), &[ready("10.1.0.1", "a")]), meshed(&[]));
    let store = store(&pods, &[bad], &[slice("orders", &[ready("10.1.0.1", "a")])]);
    let review = store.review(&Key::new("shop", "orders"), HEALTH);
    assert_eq!((review.left_out, review.findings[0].0), (1, Finding::BadServedBy));
}

#[test]
fn several_service_accounts_behind_one_service_stand_out() {
    let pods = [pod("a", "10.1.0.1", "orders"), pod("b", "10.1.0.2", "other")];
    let all = [ready("10.1.0.1", "a"), ready("10.1.0.2", "b")];
    let mixed = store(&pods, &[orders()], &[slice("orders", &all)]);
    let review = mixed.review(&Key::new("shop", "orders"), HEALTH);
    assert!(review.is_mixed() && review.left_out == 0, "{review:?}");
    let one = store(&pods, &[orders()], &[slice("orders", &all[..1])]);
    assert!(one.review(&Key::new("shop", "orders"), HEALTH).is_empty());
}

#[test]
fn a_change_touches_what_it_concerns_and_nothing_else() {
    let services = [orders(), service("other", "10.96.0.2")];
    let slices = [slice("orders", &[ready("10.1.0.1", "a")]), slice("other", &[ready("10.1.0.2", "b")])];
    let mut store =
        store(&[pod("a", "10.1.0.1", "orders"), pod("b", "10.1.0.2", "other")], &services, &slices);
    let touched = store.pods(Change::Set(pod("a", "10.1.0.1", "renamed")));
    assert_eq!(touched.ips, BTreeSet::from([ip("10.1.0.1"), ip("10.96.0.1")]));
    assert_eq!(touched.services, BTreeSet::from([Key::new("shop", "orders")]));
    // What is as it was touches nothing, also in a list of everything.
    assert_eq!(store.slices(Change::Replace(slices.to_vec())), Default::default());
    assert_eq!(store.services(Change::Set(orders())), Default::default());
    let touched = store.services(Change::Gone(Key::new("shop", "other")));
    assert_eq!(touched.ips, BTreeSet::from([ip("10.96.0.2")]));
}

/// One step in the life of a small cluster.
#[derive(Clone, Debug)]
enum Step {
    Pod(usize, Option<Pod>),
    Service(usize, Option<Service>),
    Slice(usize, Option<Slice>),
}

fn any_step() -> impl Strategy<Value = Step> {
    let stage = prop_oneof![Just(Stage::Ready), Just(Stage::LastResort), Just(Stage::Away)];
    let a_pod = (0..4usize, 0..5u8, 0..3usize, any::<[bool; 4]>()).prop_map(|(n, at, account, is)| {
        let address = format!("10.1.0.{at}");
        let pod = pod(&format!("pod-{n}"), &address, ["orders", "other", "third"][account]);
        let claim = Claim { is_staying: is[3], ..pod.claim.clone() };
        Step::Pod(
            n,
            Some(Pod { is_injected: is[0], is_host_network: is[1] && is[2], is_over: is[1], claim, ..pod }),
        )
    });
    let a_service = (0..3usize, 0..3u8, 0..3u8, any::<bool>()).prop_map(|(n, at, by, keeps_address)| {
        let served_by = match by {
            0 => ServedBy::Anybody,
            1 => ServedBy::OneOf([id("orders")].into()),
            _ => ServedBy::Nobody("bad".into()),
        };
        let service = service(&format!("svc-{n}"), &format!("10.96.0.{at}"));
        Step::Service(n, Some(Service { keeps_address, served_by, ..service }))
    });
    let endpoint = (0..6u8, proptest::option::of(0..4usize), stage).prop_map(|(at, pod, stage)| {
        SliceEndpoint { ip: ip(&format!("10.1.0.{at}")), pod: pod.map(|n| format!("pod-{n}").into()), stage }
    });
    let a_slice =
        (0..3usize, 0..3usize, proptest::collection::vec(endpoint, 0..4)).prop_map(|(n, of, endpoints)| {
            let slice = slice(&format!("svc-{of}"), &[]);
            Step::Slice(
                n,
                Some(Slice { key: Key::new("shop", &format!("s{n}")), endpoints: endpoints.into(), ..slice }),
            )
        });
    let gone = (0..3usize, 0..3usize).prop_map(|(kind, n)| match kind {
        0 => Step::Pod(n, None),
        1 => Step::Service(n, None),
        _ => Step::Slice(n, None),
    });
    prop_oneof![3 => a_pod, 2 => a_service, 3 => a_slice, 1 => gone]
}

fn apply(store: &mut Store, step: &Step) -> super::store::Touched {
    fn change<T: Clone>(object: &Option<T>, name: String) -> Change<T> {
        object.clone().map_or_else(|| Change::Gone(Key::new("shop", &name)), Change::Set)
    }
    match step {
        Step::Pod(n, pod) => store.pods(change(pod, format!("pod-{n}"))),
        Step::Service(n, service) => store.services(change(service, format!("svc-{n}"))),
        Step::Slice(n, slice) => store.slices(change(slice, format!("s{n}"))),
    }
}

/// Everything that anybody could ask of these clusters.
fn answers(store: &Store) -> Vec<((IpAddr, u16), Says)> {
    let addresses = (0..6).map(|n| format!("10.1.0.{n}")).chain((0..3).map(|n| format!("10.96.0.{n}")));
    let all = addresses.flat_map(|address| [80, 8080, 9000].map(|port| (ip(&address), port)));
    all.map(|(ip, port)| ((ip, port), store.resolve(ip, port, HEALTH))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_that_ends_in_the_same_objects_gives_the_same_answers(
        steps in proptest::collection::vec(any_step(), 0..25),
        seed in any::<u64>(),
    ) {
        let mut lived = Store::default();
        for step in &steps {
            apply(&mut lived, step);
        }
        // What each object is in the end, come by in another order, and some of it twice.
        let mut last: Vec<Step> = Vec::new();
        for step in &steps {
            last.retain(|known| !same_object(known, step));
            last.push(step.clone());
        }
        let mut state = seed;
        for at in (1..last.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            last.swap(at, (state >> 33) as usize % (at + 1));
        }
        let mut other = Store::default();
        for step in last.iter().chain(last.iter().take(3)) {
            apply(&mut other, step);
        }
        prop_assert_eq!(answers(&lived), answers(&other));
        for n in 0..3 {
            let key = Key::new("shop", &format!("svc-{n}"));
            prop_assert_eq!(lived.review(&key, HEALTH), other.review(&key, HEALTH));
        }
    }

    #[test]
    fn every_answer_that_changes_is_among_what_a_change_touches(
        steps in proptest::collection::vec(any_step(), 1..25),
    ) {
        let mut store = Store::default();
        let mut before = answers(&store);
        for step in &steps {
            let touched = apply(&mut store, step);
            let after = answers(&store);
            for (old, new) in before.iter().zip(&after) {
                prop_assert!(old == new || touched.ips.contains(&new.0.0), "{:?} not in {:?}", new, touched);
            }
            before = after;
        }
    }

    #[test]
    fn a_pod_in_the_mesh_behind_a_service_keeps_its_clients_from_plaintext(
        steps in proptest::collection::vec(any_step(), 0..25),
    ) {
        let mut store = Store::default();
        for step in &steps {
            apply(&mut store, step);
        }
        for n in 0..3u8 {
            let address = ip(&format!("10.96.0.{n}"));
            let Some(service) = store.service_at(address) else { continue };
            let in_mesh = store.slices_of(&service.key).flat_map(|slice| &slice.endpoints).any(|there| {
                let pod = store.pod_at(there.ip).filter(|pod| pod.is_meshed_at(8080, HEALTH));
                pod.is_some_and(|pod| there.pod.as_deref().is_none_or(|name| name == &*pod.key.name))
            });
            if in_mesh || service.served_by != ServedBy::Anybody {
                prop_assert_ne!(store.resolve(address, 80, HEALTH), Says::NotMeshed);
            }
        }
    }
}

fn same_object(a: &Step, b: &Step) -> bool {
    match (a, b) {
        (Step::Pod(n, _), Step::Pod(m, _))
        | (Step::Service(n, _), Step::Service(m, _))
        | (Step::Slice(n, _), Step::Slice(m, _)) => n == m,
        _ => false,
    }
}

#[test]
fn an_answer_has_so_many_endpoints_and_what_is_cut_off_shows() {
    let mut store = Store::default();
    let address = |n: usize| format!("10.1.{}.{}", n / 250, n % 250);
    let most = super::resolve::MOST_ENDPOINTS;
    let all: Vec<(String, String)> = (0..=most).map(|n| (format!("p{n}"), address(n))).collect();
    store.pods(Change::Replace(all.iter().map(|(name, ip)| pod(name, ip, "orders")).collect()));
    store.services(Change::Replace(vec![service("orders", "10.96.0.1")]));
    // No slice is as large as that.
    let slices = |count: usize| {
        let parts = all[..count].chunks(1000).enumerate().map(|(n, part)| {
            let part: Vec<_> =
                part.iter().map(|(name, ip)| (ip.as_str(), Some(name.as_str()), Stage::Ready)).collect();
            Slice { key: Key::new("shop", &format!("orders-{n}")), ..slice("orders", &part) }
        });
        Change::Replace(parts.collect())
    };
    let told = |store: &Store| match store.resolve(ip("10.96.0.1"), 80, HEALTH) {
        Says::Meshed { endpoints, .. } => endpoints,
        other => panic!("{other:?}"),
    };
    let key = Key::new("shop", "orders");
    store.slices(slices(most));
    assert_eq!((told(&store).len(), store.review(&key, HEALTH).is_empty()), (most, true));
    let before = told(&store);
    store.slices(slices(most + 1));
    assert_eq!(told(&store), before, "the same ones, whatever comes in which order");
    let review = store.review(&key, HEALTH);
    let [(Finding::TooMany, text)] = &review.findings[..] else { panic!("{review:?}") };
    assert_eq!(review.left_out, 1);
    assert!(text.contains("4096"), "{text}");
}
