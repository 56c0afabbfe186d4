//! The tracker protocol's codec against what others write and read: the vectors, serde-pickle, Python itself.

use peerloop::engine::Input;
use peerloop::proto::ring::wire::{Packet, Reader, Refusal};
use serde_json::Value as Json;

fn vectors() -> Json {
    serde_json::from_str(include_str!("../vectors/ring.json")).unwrap()
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn read(bytes: &[u8]) -> Result<Option<Packet<'_>>, Refusal> {
    Reader::default().read(Input { bytes, seen: 0 })
}

#[test]
fn smoke() {
    for message in vectors()["messages"].as_array().unwrap() {
        let literal = message["literal"].as_str().unwrap();
        let p = read(literal.as_bytes()).unwrap().unwrap();
        println!("{literal} {:?}", { p.encoding });
        println!("  {:?}", p.request());
        println!("  {:?}", read(literal.as_bytes()).unwrap().unwrap().reply());
        for (name, hex) in message["pickle"].as_object().unwrap() {
            let bytes = unhex(hex.as_str().unwrap());
            let p = read(&bytes).unwrap().unwrap();
            let encoding = p.encoding;
            println!("  {name} {encoding:?} {:?}", p.request());
            println!("  {:?}", read(&bytes).unwrap().unwrap().reply());
        }
    }
    for r in vectors()["refuse"].as_array().unwrap() {
        let bytes = match r["hex"].as_str() {
            Some(hex) => unhex(hex),
            None => vec![b'('; 100_000],
        };
        println!("{} {:?}", r["what"], read(&bytes).unwrap_err());
    }
}
