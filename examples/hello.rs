use std::io::Read;

fn main() {
    let mut said = String::new();
    std::io::stdin().read_to_string(&mut said).expect("text");
    println!("hello from Rust: {}", said.trim());
}
