"""The control benchmark of the paper's sec. 5.3: five environments with a verifiable outcome, on the LLM trainer's own losses."""
