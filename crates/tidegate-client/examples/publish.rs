//! Publishes its arguments, each one exactly once, whatever becomes of the connection meanwhile:
//! `cargo run -p tidegate-client --example publish -- prices hello '{"btc": 97000}'`.

use tidegate_client::{Client, Payload};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let channel = args.next().ok_or("usage: publish CHANNEL TEXT…")?;
    let client = Client::new("http://127.0.0.1:8080")?;
    for text in args {
        let payload = match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(_) => Payload::json(text),
            Err(_) => Payload::from(text),
        };
        let published = client.publish(&channel, payload).send().await?;
        println!("{}", published.cursor);
    }
    Ok(())
}
