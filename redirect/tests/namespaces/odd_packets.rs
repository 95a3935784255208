//! Packets that no TCP socket sends.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use mantlet_testkit::netns::{Counters, Lab, NODE, POD, Place, SERVICE};
use mantlet_testkit::{eventually, in_namespaces};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::fixture::{Server, init, intercepted};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// A port that nobody else uses.
const ODD: u16 = 7777;

fn v4(addr: std::net::IpAddr, port: u16) -> SocketAddrV4 {
    match SocketAddr::new(addr, port) {
        SocketAddr::V4(addr) => addr,
        SocketAddr::V6(_) => unreachable!("the first of each pair is IPv4"),
    }
}

/// A TCP header with a right checksum: connection tracking looks at it.
fn segment(from: SocketAddrV4, to: SocketAddrV4, flags: u8, sequence: u32) -> [u8; 20] {
    let mut header = [0; 20];
    header[0..2].copy_from_slice(&from.port().to_be_bytes());
    header[2..4].copy_from_slice(&to.port().to_be_bytes());
    header[4..8].copy_from_slice(&sequence.to_be_bytes());
    header[12] = 5 << 4;
    header[13] = flags;
    header[14..16].copy_from_slice(&1024_u16.to_be_bytes());
    let pseudo = [from.ip().octets(), to.ip().octets(), [0, 6, 0, 20]].concat();
    let sum: u32 = [&pseudo[..], &header]
        .concat()
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    header[16..18].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    header
}

/// A packet with its own header, of which the kernel fills in length and checksum.
fn packet(from: Ipv4Addr, to: Ipv4Addr, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, 6, 0, 0];
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet.extend([from.octets(), to.octets()].concat());
    packet.extend(payload);
    packet
}

/// A raw socket of IPv4; the kernel makes the IP header, or the sender does.
fn raw(protocol: i32, own_header: bool) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(protocol))).unwrap();
    socket.set_header_included_v4(own_header).unwrap();
    socket
}

/// Counts on the node what arrives from the pod for the odd port, before anything else sees it.
async fn watch(lab: &Lab) {
    for line in [
        "nft add table inet probe",
        "nft add chain inet probe seen { type filter hook prerouting priority -500 ; }",
        "nft add rule inet probe seen iifname veth0 tcp dport 7777 counter",
        "nft add rule inet probe seen iifname veth0 meta l4proto 47 counter",
        "nft add chain inet probe marks { type filter hook prerouting priority -400 ; }",
        "nft add rule inet probe marks iifname veth0 udp dport 7777 counter",
    ] {
        lab.node.command(line).await;
    }
}

/// What has arrived, after everything that was sent has had its chance: a link keeps the order, so a
/// datagram that may pass is sent behind it.
async fn arrived(lab: &Lab) -> u64 {
    let marks = Counters::of(&lab.node, "probe").await.packets("marks", "*");
    let mark = async {
        let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        socket.send_to(b"mark", (SERVICE[0], ODD)).await.unwrap();
    };
    lab.pod.run(mark).await;
    eventually("the mark behind the packets", async || {
        let counters = Counters::of(&lab.node, "probe").await;
        (counters.packets("marks", "*") > marks).then(|| counters.packets("seen", "*"))
    })
    .await
}

/// Sends, from the pod, what an application with a raw socket may send.
async fn send_raw(place: &Place) {
    let send = async {
        let (from, to) = (v4(POD[0], 40000), v4(SERVICE[0], ODD));
        for flags in [SYN, ACK, RST, SYN | ACK] {
            // The kernel may say that it was not permitted: that is the point.
            let _ = raw(6, false).send_to(&segment(from, to, flags, 1), &to.into());
            let whole = packet(*from.ip(), *to.ip(), 0, &segment(from, to, flags, 1));
            let _ = raw(6, true).send_to(&whole, &to.into());
        }
        // A protocol that is neither TCP nor UDP (GRE).
        let _ = raw(47, false).send_to(&[0; 8], &to.into());
    };
    place.run(send).await;
}

#[test]
fn n12_raw_ip_sockets_send_nothing_past_the_rules() {
    in_namespaces!(async || {
        let lab = Lab::new().await;
        watch(&lab).await;
        send_raw(&lab.pod).await;
        let before = arrived(&lab).await;
        assert!(before >= 2, "without rules packets arrive: {before}");
        lab.pod.command(&init("")).await;
        let _sidecar = Server::sidecar(&lab).await;
        send_raw(&lab.pod).await;
        assert_eq!(arrived(&lab).await, before);
        // Who has no capability, as applications should, cannot even make such a socket.
        let refused =
            lab.app.run(async { Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).is_err() });
        assert!(refused.await);
    });
}

/// What the threat model says of packet sockets: they write frames below the rules, and need NET_RAW.
#[test]
fn n12_a_packet_socket_gets_past_the_rules_and_needs_a_capability() {
    in_namespaces!(async || {
        let frame = "import socket,sys; s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW); \
                     s.bind(('eth0',0)); s.send(bytes.fromhex(sys.argv[1]))";
        let lab = intercepted("").await;
        if lab.pod.try_command("python3 --version").await.is_err() {
            let required = std::env::var_os("TEST_REQUIRE_ALL").is_some_and(|value| value == "1");
            assert!(!required, "packet sockets are tested with python3: apt-get install python3");
            return eprintln!("SKIP packet sockets: no python3; enable: apt-get install python3");
        }
        watch(&lab).await;
        let shown = lab.node.command("ip -o link show veth0").await;
        let of_node = shown.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let (from, to) = (v4(POD[0], 40000), v4(SERVICE[0], ODD));
        let mut bytes: Vec<u8> =
            of_node.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        bytes.extend([2, 0, 0, 0, 0, 1, 8, 0]);
        let mut whole = packet(*from.ip(), *to.ip(), 0, &segment(from, to, SYN, 1));
        whole[3] = 40;
        let sum: u32 = whole[..20].chunks(2).map(|p| u32::from(u16::from_be_bytes([p[0], p[1]]))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        whole[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
        bytes.extend(whole);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let send = async |place: &Place| {
            let mut python = tokio::process::Command::new("python3");
            python.arg("-c").arg(frame).arg(&hex);
            place.run(async move { mantlet_testkit::real_peers::run(&mut python).await }).await
        };
        assert_eq!(arrived(&lab).await, 0);
        send(&lab.app).await.unwrap_err();
        assert_eq!(arrived(&lab).await, 0);
        send(&lab.pod).await.unwrap();
        assert_eq!(arrived(&lab).await, 1);
    });
}

#[test]
fn n14_a_fragmented_connection_attempt_is_redirected_like_a_whole_one() {
    in_namespaces!(async || {
        let lab = intercepted("").await;
        let _sidecar = Server::sidecar(&lab).await;
        let app = Server::app(&lab.app, [SocketAddr::new(POD[0], 8080)]).await;
        let (from, to) = (v4(NODE[0], 40001), v4(POD[0], 8080));
        let send = async move {
            let header = segment(from, to, SYN, 1);
            let socket = raw(6, true);
            // More fragments follow; then the rest, from the eighth byte on. No part has both port and flags.
            for (fragment, payload) in [(0x2000, &header[..8]), (1, &header[8..])] {
                let packet = packet(*from.ip(), *to.ip(), fragment, payload);
                socket.send_to(&packet, &to.into()).unwrap();
            }
        };
        lab.node.run(send).await;
        eventually("the redirection of a fragmented packet", async || {
            (Counters::read(&lab.pod).await.packets("nat_pre", "redirect") == 1).then_some(())
        })
        .await;
        assert_eq!(app.accepted(), 0);
    });
}

#[test]
fn n14_an_injected_reset_does_not_end_a_connection() {
    in_namespaces!(async || {
        let lab = intercepted("").await;
        let _sidecar = Server::sidecar(&lab).await;
        let to = v4(POD[0], 8080);
        let greeting = format!("in {to}\n").len();
        let connect = async move {
            let mut tcp = TcpStream::connect(SocketAddr::V4(to)).await.unwrap();
            tcp.read_exact(&mut vec![0; greeting]).await.unwrap();
            tcp
        };
        let mut tcp = lab.node.run(connect).await;
        let from = v4(NODE[0], tcp.local_addr().unwrap().port());
        let inject = async move {
            for sequence in [0, 0x4000_0000, 0x8000_0000, 0xc000_0000] {
                let reset = segment(from, to, RST, sequence);
                raw(6, true).send_to(&packet(*from.ip(), *to.ip(), 0, &reset), &to.into()).unwrap();
            }
        };
        lab.node.run(inject).await;
        // They are known for what they are, and go no further.
        eventually("invalid packets that were dropped", async || {
            (Counters::read(&lab.pod).await.packets("flt_in", "drop") >= 2).then_some(())
        })
        .await;
        let echo = async move {
            tcp.write_all(b"alive").await.unwrap();
            let mut said = [0; 5];
            tcp.read_exact(&mut said).await.unwrap();
            said
        };
        assert_eq!(&lab.node.run(echo).await, b"alive");
    });
}
