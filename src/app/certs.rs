//! The command `gen-cert`: a CA, and certificates for a server and a client.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Datelike, Days, Utc};
use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};

const CA_DAYS: u64 = 3650;
/// The longest that common clients accept.
const LEAF_DAYS: u64 = 397;
const FILES: [&str; 6] = ["ca.pem", "ca.key", "server.pem", "server.key", "client.pem", "client.key"];

#[derive(Args)]
pub struct GenCertArgs {
    /// Where the files go
    #[arg(long, default_value = "certs")]
    pub out: PathBuf,
    /// Replace files that are there
    #[arg(long)]
    pub force: bool,
    /// Further names or addresses of the server, beside localhost, 127.0.0.1 and ::1
    #[arg(long = "name")]
    pub names: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum CertError {
    #[error("{out} holds some of ca, server and client and lacks others; use --force to make them all anew")]
    Partial { out: PathBuf },
    #[error("can't write {path}: {source}; choose another folder with --out")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("can't make a certificate: {0}; is each --name a host name or an address?")]
    Make(#[from] rcgen::Error),
}

/// Makes the files that aren't there; keeps them all where all are.
pub fn generate(args: &GenCertArgs) -> Result<(), CertError> {
    let there = FILES.iter().filter(|file| args.out.join(file).exists()).count();
    if there == FILES.len() && !args.force {
        eprintln!("{} holds certificates; they are kept", args.out.display());
        return Ok(());
    }
    if there > 0 && !args.force {
        return Err(CertError::Partial { out: args.out.clone() });
    }
    fs::create_dir_all(&args.out).map_err(|source| CertError::Write { path: args.out.clone(), source })?;

    let mut ca = params("chat-service CA", Vec::new(), CA_DAYS)?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
    write(&args.out, "ca", &ca.pem(), ca.key())?;

    let names: Vec<String> = ["localhost", "127.0.0.1", "::1"].into_iter().map(str::to_owned).chain(args.names.iter().cloned()).collect();
    leaf(&args.out, "server", names, ExtendedKeyUsagePurpose::ServerAuth, &ca)?;
    leaf(&args.out, "client", Vec::new(), ExtendedKeyUsagePurpose::ClientAuth, &ca)?;
    eprintln!("made certificates in {}", args.out.display());
    Ok(())
}

fn leaf(
    out: &Path,
    name: &str,
    names: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
    ca: &CertifiedIssuer<'_, KeyPair>,
) -> Result<(), CertError> {
    let mut leaf = params(name, names, LEAF_DAYS)?;
    leaf.use_authority_key_identifier_extension = true;
    // Said outright, it also makes rcgen write the subject key identifier.
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![usage];
    let key = KeyPair::generate()?;
    let certificate = leaf.signed_by(&key, ca)?;
    write(out, name, &certificate.pem(), &key)
}

fn params(common_name: &str, names: Vec<String>, days: u64) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = Utc::now();
    // Clocks that are a little behind accept it too.
    params.not_before = midnight(now - Days::new(1));
    params.not_after = midnight(now + Days::new(days - 1));
    Ok(params)
}

fn midnight(day: DateTime<Utc>) -> time::OffsetDateTime {
    date_time_ymd(day.year(), day.month() as u8, day.day() as u8)
}

fn write(out: &Path, name: &str, certificate: &str, key: &KeyPair) -> Result<(), CertError> {
    write_file(&out.join(format!("{name}.key")), &key.serialize_pem(), 0o600)?;
    write_file(&out.join(format!("{name}.pem")), certificate, 0o644)
}

/// Writes beside and renames: a file is whole or not there.
fn write_file(path: &Path, content: &str, mode: u32) -> Result<(), CertError> {
    use std::os::unix::fs::OpenOptionsExt;
    let beside = path.with_extension("new");
    let written = (|| {
        drop(fs::remove_file(&beside));
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    written.map_err(|source| CertError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_private_and_files_are_kept_unless_forced() {
        let folder = tempfile::tempdir().unwrap();
        let mut args = GenCertArgs { out: folder.path().join("certs"), force: false, names: vec!["chat.example".into()] };
        generate(&args).unwrap();
        for name in ["ca.key", "server.key", "client.key"] {
            let mode = fs::metadata(args.out.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let first = fs::read(args.out.join("ca.pem")).unwrap();
        generate(&args).unwrap();
        assert_eq!(fs::read(args.out.join("ca.pem")).unwrap(), first);
        fs::remove_file(args.out.join("client.pem")).unwrap();
        assert!(matches!(generate(&args), Err(CertError::Partial { .. })));
        args.force = true;
        generate(&args).unwrap();
        assert_ne!(fs::read(args.out.join("ca.pem")).unwrap(), first);
    }
}
