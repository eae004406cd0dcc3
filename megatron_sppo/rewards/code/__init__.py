"""The code reward: does the program in a response pass all tests of the gold? See docs/code_reward.md."""
