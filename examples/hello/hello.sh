#!/usr/bin/env bash
# Greets somebody a number of times.
name=$1
times=${2%.*}
for ((i = 0; i < times; i++)); do
    echo "Hello, $name!"
done
