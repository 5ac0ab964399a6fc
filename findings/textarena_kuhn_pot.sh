#!/usr/bin/env bash
# What: textarena 0.7.4, the environment KuhnPoker-v0, in which models play against themselves.
#
# The prompt says of its actions: "'[bet]': Add 1 chip to the pot" and "'[call]': Match an
# opponent's bet by adding 1 chip to the pot". Each player puts 1 chip into the pot before. Who has
# more chips after three rounds wins.
#
# Expected: a round with a bet that is called has a pot of 4 chips. Its winner gains 2, its loser
# loses 2. In a match where player 0 loses two rounds without a bet (1 chip each), and then wins one
# with a bet and a call (2 chips), both have as many chips in the end: a draw.
# Seen on 30 November 2026: the pot is 2 chips in every round. Neither a bet nor a call moves a
# chip, so the winner of a round gains 1 whatever was done, and player 1 wins the match. A bluff
# costs nothing and a call costs no more than a fold, so folding is never right. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check textarena==0.7.4 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import importlib.metadata
import sys

import textarena

VERSION = importlib.metadata.version("textarena")


def play(seed, rounds):
    """Plays the rounds, and returns the pots that were won, the winners and the rewards."""
    env = textarena.make("KuhnPoker-v0")
    env.reset(num_players=2, seed=seed)
    winners = []
    for actions in rounds:
        cards = env.state.game_state["player_cards"]
        winners.append(max(cards, key=cards.get))
        for action in actions:
            env.get_observation()
            done, _ = env.step(action)
    assert done
    pots = [int(message.split("wins pot of ")[1].split()[0])
            for _, message in env.state.logs if "wins pot of" in message]
    return pots, winners, env.close()[0]


CHECKS, BET = ("[check]", "[check]"), ("[bet]", "[call]")
seed = next(seed for seed in range(1000) if play(seed, [CHECKS] * 3)[1] == [1, 1, 0])
pots, winners, rewards = play(seed, [CHECKS, CHECKS, BET])
print(f"textarena {VERSION}: two rounds without a bet and one with a bet and a call are won by "
      f"players {winners}, pots {pots} chips, expected [2, 2, 4]")
print(f"rewards {rewards}, expected 0 for both")
late_bet = play(seed, [CHECKS, CHECKS, ("[check]", "[bet]", "[call]")])
print(f"with a check before the bet: pots {late_bet[0]}, rewards {late_bet[2]}")
sys.exit((winners, pots, rewards) != ([1, 1, 0], [2, 2, 2], {0: -1, 1: 1})
         or (late_bet[0], late_bet[2]) != (pots, rewards))
PYTHON
