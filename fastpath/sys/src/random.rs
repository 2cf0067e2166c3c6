//! Random bytes from the kernel (getrandom(2)), for secrets and seeds. Never called per packet.

use std::io;

/// `N` random bytes. Waits, at most at boot, until the kernel's generator is seeded.
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut out = [0u8; N];
    let mut done = 0;
    while done < N {
        let rest = &mut out[done..];
        // SAFETY: `rest` is valid for writes of `rest.len()` bytes during the call.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        if got < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        done += got as usize;
    }
    Ok(out)
}

/// `N` random 64-bit words.
pub fn words64<const N: usize>() -> io::Result<[u64; N]> {
    let mut words = [0u64; N];
    for word in &mut words {
        *word = u64::from_ne_bytes(bytes::<8>()?);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        assert_ne!(bytes::<32>().unwrap(), bytes::<32>().unwrap());
        assert_ne!(words64::<4>().unwrap(), words64::<4>().unwrap());
    }
}
