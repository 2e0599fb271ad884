#[derive(clap::Args)] pub struct TokenArgs {}
pub fn mint(_: &TokenArgs) -> Result<String, String> { Ok(String::new()) }
pub fn sign(_: &[u8], _: &str, _: &[String], _: std::time::Duration, _: Option<&str>, _: Option<&str>) -> Result<String, String> { Ok(String::new()) }
