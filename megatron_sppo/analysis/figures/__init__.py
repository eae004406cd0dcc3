"""The paper's figures from our own runs, one file each."""
