#[derive(clap::Args)]
pub struct ConnectArgs {}
pub async fn run(_: ConnectArgs) -> Result<(), String> {
    Ok(())
}
