//! A resolver of the host with a link-local address, as router advertisements name it.

use std::net::UdpSocket;

use crate::named::open;
use crate::support::{Namespace, SECOND, block_on, on_private_host, outside, sh};

/// The question for the IPv4 addresses of example.org.
const QUESTION: &[u8] = b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x07example\x03org\0\0\x01\0\x01";
/// An answer: its name is a pointer to the question.
const ANSWER: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x09\0\x04\xcb\0\x71\x09";

#[test]
fn a_resolver_with_a_link_local_address_is_used() {
    on_private_host(module_path!(), "a_resolver_with_a_link_local_address_is_used", || {
        let dir = tempfile::tempdir().unwrap();
        let outside = outside();
        outside.sh("ip addr add fe80::53/64 dev up1 nodad");
        outside.run(|| {
            let socket = UdpSocket::bind("[::]:53").unwrap();
            std::thread::spawn(move || {
                let mut question = [0; 512];
                while let Ok((length, from)) = socket.recv_from(&mut question) {
                    let mut answer = [&question[..length], ANSWER].concat();
                    (answer[2], answer[3], answer[7]) = (0x81, 0x80, 1);
                    let _ = socket.send_to(&answer, from);
                }
            });
        });
        sh(
            "ip addr add fe80::1/64 dev up0 nodad; echo 'nameserver fe80::53%up0' >/run/resolv.conf; mount --bind /run/resolv.conf /etc/resolv.conf",
        );
        let networks = open(dir.path());
        let pod = Namespace::new();
        block_on(async {
            pod.attach(&networks, &[]).await.unwrap();
            let answer = pod.run(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.set_read_timeout(Some(SECOND * 8)).unwrap();
                socket.send_to(QUESTION, "10.88.0.1:53").unwrap();
                let mut answer = [0; 512];
                let length = socket.recv(&mut answer).unwrap();
                answer[..length].to_vec()
            });
            assert_eq!((answer[3] & 15, &answer[QUESTION.len()..]), (0, ANSWER));
        });
    });
}
