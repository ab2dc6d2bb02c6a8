#!/bin/sh
# Collects what a running server needs, and nothing else, into the folder $1.
set -eu
target=$1
mkdir -p "$target/engine-native/build"
cp -r package.json node_modules server models LICENSE "$target/"
cp engine-native/build/libhearth.so engine-native/build/hearth-bench "$target/engine-native/build/"
rm -rf "$target/server/web/src" "$target/server/web/public"
