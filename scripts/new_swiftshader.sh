#!/usr/bin/env bash
# Unpacks SwiftShader, a second Vulkan driver for the CPU (no f16 or int8 arithmetic, no 8- or 16-bit storage, subgroups of 4, 256 invocations,
# bindings at multiples of 256), from Debian's chromium package into DIR, and writes DIR/run, which runs a program on it alone:
#   scripts/new_swiftshader.sh ../swiftshader && ../swiftshader/run target/debug/nyxc devices
# Takes about 80 MB of download and 6 MB of disk; needs apt-get and dpkg-deb, installs nothing, changes nothing outside DIR.
set -euo pipefail
dir=$(realpath -m "${1:?usage: new_swiftshader.sh DIR}")
[ -x "$dir/run" ] && { echo "$dir/run is there already"; exit 0; }
mkdir -p "$dir"
cd "$dir"
# The library lies in chromium in Debian 12 and may move to chromium-common, which comes first since it is smaller.
for package in chromium-common chromium; do
  rm -f ./*.deb
  apt-get download -qq "$package" 2>&1 | { grep -v unsandboxed || true; } >&2
  dpkg-deb --fsys-tarfile "$package"_*.deb | tar -x --strip-components=4 --wildcards '*/libvk_swiftshader.so' '*/vk_swiftshader_icd.json' 2>/dev/null || true
  rm -f ./*.deb
  [ -f libvk_swiftshader.so ] && break
done
[ -f libvk_swiftshader.so ] && [ -f vk_swiftshader_icd.json ] || { echo "no SwiftShader in the package chromium" >&2; exit 1; }
cat >run <<SH
#!/bin/sh
# Runs a program with SwiftShader as the only Vulkan driver.
export VK_ICD_FILENAMES=$dir/vk_swiftshader_icd.json VK_DRIVER_FILES=$dir/vk_swiftshader_icd.json
exec "\$@"
SH
chmod +x run
echo "$dir/run runs a program on SwiftShader"
