//! More than one server of the directory, how they are found, and one that is gone without a word.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mantlet_testkit::cable::Cable;
use mantlet_testkit::client::Request;
use mantlet_testkit::directory::{Directory, Protocol, meshed};
use mantlet_testkit::dns::{DnsServer, Manner};
use mantlet_testkit::grpc::Status;
use mantlet_testkit::pki::Authority;
use mantlet_testkit::wait::eventually;
use mantlet_testkit::workload_api::Answer;

use crate::fixture::{Caller, PORT, directory, orders, replica, service};
use crate::load::Load;
use crate::replica::own_ip;

const NAME: &str = "mantlet-injector.mantlet-system.svc";

/// A sidecar that finds the directory by its name.
async fn caller(authority: &Authority, dns: &DnsServer, wanted: &[SocketAddr]) -> Caller {
    let conf = dns.resolv_conf("");
    Caller::asking(&format!("{NAME}:{PORT}"), authority, wanted, |sidecar| {
        sidecar.arg("--mesh-cidrs", "127.0.0.0/8").arg("--resolv-conf", conf)
    })
    .await
}

fn ips(servers: &[&Directory]) -> Vec<IpAddr> {
    servers.iter().map(|server| server.addr().ip()).collect()
}

async fn ended(caller: &Caller, reason: &str, count: usize) {
    let labels = [("reason", reason)];
    caller.sidecar.metric_reaches("mantlet_directory_stream_ends_total", &labels, count as f64).await;
}

async fn is_connected(caller: &Caller) {
    caller.sidecar.metric_reaches("mantlet_directory_stream", &[("state", "connected")], 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_goes_on_with_another_server_and_no_request_fails() {
    let (authority, dns) = (Authority::new("td.test"), DnsServer::start().await);
    let (a, b) = (replica(&authority, 1).await, replica(&authority, 2).await);
    let (servers, wanted) = ([directory(&authority), directory(&authority)], service());
    for server in &servers {
        server.say(wanted, meshed([orders(&a, Protocol::Http), orders(&b, Protocol::Http)]));
    }
    dns.set(NAME, &ips(&[&servers[0], &servers[1]]), 60);
    let caller = caller(&authority, &dns, &[wanted]).await;
    let load = Load::start(&caller).await;
    load.sent(10).await;
    for round in 0..3 {
        let lost = eventually("one that is followed", async || {
            servers.iter().position(|server| server.is_followed(wanted))
        })
        .await;
        servers[lost].down();
        servers[1 - lost].follows(wanted).await;
        load.sent(20).await;
        if round == 2 {
            // What the other one says holds from now on.
            servers[1 - lost].say(wanted, meshed([orders(&b, Protocol::Http)]));
            caller.answers("meshed", 5).await;
            load.sent(40).await;
            let before = a.app.seen().len();
            load.sent(40).await;
            assert_eq!(a.app.seen().len(), before);
        }
        servers[lost].up();
    }
    load.end().await;
}

#[tokio::test]
async fn a_server_that_does_not_know_the_cluster_yet_is_passed_over_and_every_address_asked_elsewhere() {
    let (authority, dns) = (Authority::new("td.test"), DnsServer::start().await);
    let a = replica(&authority, 1).await;
    let (starting, knowing) = (directory(&authority), directory(&authority));
    let wanted: Vec<SocketAddr> = (0..20).map(|_| service()).collect();
    // It would say what was true once.
    starting.refuse(Some(Status::unavailable("the directory does not know the whole cluster yet")));
    for wanted in &wanted {
        starting.say(*wanted, meshed([]));
        knowing.say(*wanted, meshed([orders(&a, Protocol::Http)]));
    }
    dns.set(NAME, &ips(&[&starting, &knowing]), 60);
    let caller = caller(&authority, &dns, &wanted).await;
    for n in 0..wanted.len() {
        assert_eq!(caller.get(n).await.unwrap().text(), "1");
    }
    for _ in 0..4 {
        knowing.refuse(Some(Status::unavailable("connect again: drain")));
        knowing.refuse(None);
        for wanted in &wanted {
            knowing.follows(*wanted).await;
        }
    }
    assert_eq!(caller.get(0).await.unwrap().text(), "1");
    assert_eq!(starting.questions(), [], "whoever refuses is told nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_without_a_word_is_found_out_in_seconds_and_left() {
    let (authority, dns) = (Authority::new("td.test"), DnsServer::start().await);
    let (a, b) = (replica(&authority, 1).await, replica(&authority, 2).await);
    let (gone, other, wanted) = (directory(&authority), directory(&authority), service());
    gone.say(wanted, meshed([orders(&a, Protocol::Http)]));
    other.say(wanted, meshed([orders(&b, Protocol::Http)]));
    let cable = Cable::between(SocketAddr::from((own_ip(), PORT)), gone.addr()).await;
    dns.set(NAME, &[cable.addr().ip()], 60);
    let caller = caller(&authority, &dns, &[wanted]).await;
    let load = Load::start(&caller).await;
    load.sent(10).await;
    is_connected(&caller).await;
    dns.set(NAME, &ips(&[&other]), 60);

    cable.hold();
    let begun = Instant::now();
    ended(&caller, "lost", 1).await;
    let found = begun.elapsed();
    // Twice three seconds, and what a busy machine takes.
    assert!(found < Duration::from_secs(10), "{found:?}");
    other.follows(wanted).await;
    is_connected(&caller).await;
    caller.answers("meshed", 2).await;
    // What the first one said served until then.
    load.sent(40).await;
    let before = a.app.seen().len();
    load.sent(40).await;
    assert_eq!(a.app.seen().len(), before, "by now the other one's answer holds");
    load.end().await;
}

#[tokio::test]
async fn the_directory_is_looked_up_for_each_stream_and_found_wherever_its_name_leads() {
    let (authority, dns) = (Authority::new("td.test"), DnsServer::start().await);
    let replica = replica(&authority, 1).await;
    let (first, second, wanted) = (directory(&authority), directory(&authority), service());
    for server in [&first, &second] {
        server.say(wanted, meshed([orders(&replica, Protocol::Http)]));
    }
    // There is no such name, and then one without an address.
    let caller = caller(&authority, &dns, &[wanted]).await;
    ended(&caller, "dns", 1).await;
    dns.set(NAME, &[], 60);
    ended(&caller, "dns", 2).await;
    assert!(caller.refuses(0).await);
    // There it is.
    dns.set(NAME, &ips(&[&first]), 60);
    first.follows(wanted).await;
    eventually("an answer", async || caller.get(0).await).await;
    // Elsewhere, however long the answer before was to hold; a server that stands is not left for that.
    dns.set(NAME, &ips(&[&second]), 60);
    assert_eq!(caller.get(0).await.unwrap().text(), "1");
    assert_eq!(second.opened(), 0);
    first.down();
    second.follows(wanted).await;
    // Behind one of several addresses, of which the others are dead.
    first.up();
    dns.set(NAME, &[IpAddr::from(own_ip()), first.addr().ip(), IpAddr::from(own_ip())], 60);
    second.down();
    first.follows(wanted).await;
    // Nobody answers for the name any more: where it was, it is.
    dns.manner(Manner::Fails);
    let before = first.opened();
    first.down();
    first.up();
    eventually("a new stream", async || (first.opened() > before).then_some(())).await;
    first.follows(wanted).await;
    assert_eq!(caller.get(0).await.unwrap().text(), "1");
}

#[tokio::test]
async fn a_directory_whose_authority_is_taken_out_of_the_bundle_is_left_and_the_next_one_believed() {
    let (old, next) = (Authority::new("td.test"), Authority::new("td.test"));
    let (a, b, wanted) = (replica(&old, 1).await, replica(&next, 2).await, service());
    let directory = directory(&old);
    directory.say(wanted, meshed([orders(&a, Protocol::Http)]));
    let caller = Caller::start(&old, &directory, &[wanted]).await;
    let mut open = caller.open(0).await;
    assert_eq!(open.send(&Request::get("/")).await.text(), "1");
    // A second authority comes, and has made the sidecar's certificate: nothing ends.
    let both = Answer::of(&next.workload("web/frontend")).bundle([&old, &next]);
    caller.sidecar.workload_api().serve(both.message());
    directory.say(wanted, meshed([orders(&a, Protocol::Http), orders(&b, Protocol::Http)]));
    eventually("the second authority to be believed", async || {
        (caller.get(0).await?.text() == "2").then_some(())
    })
    .await;
    assert_eq!(caller.count("mantlet_directory_stream_ends_total", &[]).await, 0.0);
    assert_eq!(directory.opened(), 1);
    // The first one goes.
    caller.sidecar.workload_api().serve(Answer::of(&next.workload("web/frontend")).message());
    ended(&caller, "renewed", 1).await;
    ended(&caller, "tls", 1).await;
    assert_eq!(directory.opened(), 1, "it is not believed any more");
    eventually("what it said to hold on", async || (caller.get(0).await?.text() == "2").then_some(())).await;
    let addr = directory.addr();
    drop(directory);
    let directory = Directory::start(&next, addr);
    directory.say(wanted, meshed([orders(&b, Protocol::Http)]));
    is_connected(&caller).await;
    directory.follows(wanted).await;
    caller.answers("meshed", 3).await;
    assert_eq!(caller.get(0).await.unwrap().text(), "2");
}
