"""``megatron-sppo data prepare``: public math sets -> one checked, documented jsonl schema. No problem text lies in here."""
