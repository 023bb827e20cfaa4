/*
 * The attested handshake (src/sealtune/channel/handshake.py) with an attacker who controls the
 * network and is a participant of the job. Checked with spin 6.5:
 *
 *     spin -a handshake.pml && cc -O2 -DSAFETY -DCOLLAPSE -o pan pan.c && ./pan -m100000 -E
 *
 *   -DNO_NAMES    the server's evidence names neither its client nor the messages before it
 *   -DNO_CONFIRM  the client takes the channel without a word of the server under the new keys
 *   -DNO_TRANSCRIPT  keys and confirmations do not depend on the messages
 *
 * NO_NAMES with NO_CONFIRM, NO_NAMES with NO_TRANSCRIPT, and NO_CONFIRM alone give the attacker what he
 * wants. NO_NAMES or NO_TRANSCRIPT alone do not, within the bounds below: each covers for the other.
 *
 * What is checked, by assertions:
 *   agreement of the client   whoever holds a channel as Alice shares it with the server's session
 *                             for Alice: same challenge, hello, keys and halves
 *   agreement of the server   a channel of the session for Alice is Alice's, with all of that
 *   secrecy                   the attacker never has both halves of a channel of Alice's
 *
 * Bounds: one handshake of Alice, two of the server (for Alice and for Eve, the attacker), any number
 * of messages of the attacker. Cryptography is symbolic: evidence and signatures cannot be forged,
 * what is sealed opens with its key alone. The attacker knows every nonce beforehand, which only
 * helps him. Evidence of Alice stands for a TEE's as well as for an organisation's signature.
 */

mtype = { CHALLENGE, HELLO, SERVER_HELLO, CLIENT_KEY, CONFIRM };

/* parties, nonces, public keys, halves of session keys; 0 is none */
#define ALICE 1
#define EVE 2
#define N_ALICE 1
#define N_EVE 2
#define N_SERVER_A 3 /* of the server's session for Alice */
#define N_SERVER_E 4 /* of the one for Eve */
#define PK_ALICE 1
#define PK_EVE 2
#define PK_SERVER_A 3
#define PK_SERVER_E 4
#define K_ALICE 1
#define K_SERVER_A 2
#define K_SERVER_E 3
#define K_EVE 4

/* kind, and up to seven fields; the comments at each send say which */
chan to_alice = [0] of { mtype, byte, byte, byte, byte, byte, byte, byte };
chan to_server[2] = [0] of { mtype, byte, byte, byte, byte, byte, byte, byte };
chan network = [0] of { mtype, byte, byte, byte, byte, byte, byte, byte, byte };

typedef Session { /* of the server */
  byte client, own_nonce, own_key, own_half;
  byte nonce, key, peer_half;
  bit answered, done
};
Session session[2];

byte alice_challenge, alice_server_key, alice_half; /* what Alice has seen */
bit alice_answered, alice_done;

/* what the attacker has learnt */
bit knows[5];             /* halves */
bit heard_alice;          /* Alice's hello, made over alice_challenge */
bit heard_server[2];      /* a session's evidence, over its nonce and key */
bit heard_key;            /* Alice's last message */
bit heard_confirm[2];

/* what a conversation's keys depend on besides challenge and server key: whose hello, which key */
#define SAID(signer, key) (8 * signer + key)

#define secret !(knows[K_ALICE] && knows[alice_half])

inline agreement_of_alice() {
  assert(alice_server_key == PK_SERVER_A && alice_challenge == N_SERVER_A);
  assert(session[0].answered && session[0].nonce == N_ALICE && session[0].key == PK_ALICE);
  assert(alice_half == K_SERVER_A);
  assert(secret)
}

/*
 * What a party refuses is not received at all: the handshake goes on with whatever comes instead,
 * which gives the attacker more tries than the code does. eval(x) takes a message only if it says x.
 */
proctype Alice() {
  /* challenge: nonce */
  to_alice ? CHALLENGE(alice_challenge, _, _, _, _, _, _);
  /* hello: signer, over nonce, own nonce, own key */
  atomic {
    alice_answered = 1;
    network ! HELLO(ALICE, alice_challenge, N_ALICE, PK_ALICE, 0, 0, 0, 0)
  }
  /* server hello: over nonce, its key, its client, its challenge, that hello's key; half, sealed to */
#ifdef NO_NAMES
  to_alice ? SERVER_HELLO(eval(N_ALICE), alice_server_key, _, _, _, alice_half, eval(PK_ALICE));
#else
  to_alice ? SERVER_HELLO(eval(N_ALICE), alice_server_key, eval(ALICE), eval(alice_challenge),
                          eval(PK_ALICE), alice_half, eval(PK_ALICE));
#endif
  atomic {
#ifdef NO_CONFIRM
    alice_done = 1; agreement_of_alice();
#endif
    /* client key: half, sealed to; confirmation under both halves of the whole conversation */
    network ! CLIENT_KEY(K_ALICE, alice_server_key, alice_half, K_ALICE, alice_challenge,
                         SAID(ALICE, PK_ALICE), alice_server_key, 0)
  }
  /* the server's first sealed message: under both halves and the whole conversation */
#ifdef NO_TRANSCRIPT
  to_alice ? CONFIRM(eval(alice_half), eval(K_ALICE), _, _, _, _, _);
#else
  to_alice ? CONFIRM(eval(alice_half), eval(K_ALICE), eval(alice_challenge),
                     eval(SAID(ALICE, PK_ALICE)), eval(alice_server_key), _, _);
#endif
  atomic { alice_done = 1; agreement_of_alice() }
}

proctype Server(byte i) {
  network ! CHALLENGE(session[i].own_nonce, 0, 0, 0, 0, 0, 0, i);
  to_server[i] ? HELLO(eval(session[i].client), eval(session[i].own_nonce), session[i].nonce,
                       session[i].key, _, _, _);
  atomic {
    session[i].answered = 1;
    network ! SERVER_HELLO(session[i].nonce, session[i].own_key, session[i].client,
                           session[i].own_nonce, session[i].key, session[i].own_half,
                           session[i].key, i)
  }
  /* the half that came with it is the one that the confirmation was made under */
#ifdef NO_TRANSCRIPT
  to_server[i] ? CLIENT_KEY(session[i].peer_half, eval(session[i].own_key),
                            eval(session[i].own_half), _, _, _, _);
#else
  to_server[i] ? CLIENT_KEY(session[i].peer_half, eval(session[i].own_key),
                            eval(session[i].own_half), _, eval(session[i].own_nonce),
                            eval(SAID(session[i].client, session[i].key)),
                            eval(session[i].own_key));
#endif
  atomic {
    session[i].done = 1;
    if
    :: session[i].client == ALICE ->
      assert(alice_answered && alice_challenge == N_SERVER_A && session[i].nonce == N_ALICE);
      assert(session[i].key == PK_ALICE && alice_server_key == PK_SERVER_A);
      assert(alice_half == K_SERVER_A && session[i].peer_half == K_ALICE && secret)
    :: else
    fi;
    network ! CONFIRM(session[i].own_half, session[i].peer_half, session[i].own_nonce,
                      SAID(session[i].client, session[i].key), session[i].own_key, 0, 0, i)
  }
}

/* Takes every message, and sends whatever can be made of what was heard. */
proctype Attacker() {
  mtype kind; byte a, b, c, d, e, f, g, i, half, other, nonce, key, over;
  knows[K_EVE] = 1;
  do
  :: atomic { network ? kind(a, b, c, d, e, f, g, i) ->
      if
      :: kind == HELLO -> heard_alice = 1
      :: kind == SERVER_HELLO ->
        heard_server[i] = 1;
        if :: g == PK_EVE -> knows[f] = 1 :: else fi
      :: kind == CLIENT_KEY -> heard_key = 1
      :: kind == CONFIRM -> heard_confirm[i] = 1
      :: else
      fi;
      assert(!alice_done || secret);
      kind = 0; a = 0; b = 0; c = 0; d = 0; e = 0; f = 0; g = 0; i = 0 }
  /* a challenge of anybody */
  :: atomic { select(nonce : 2 .. 4) -> to_alice ! CHALLENGE(nonce, 0, 0, 0, 0, 0, 0); nonce = 0 }
  /* Alice's hello to either session; a hello of Eve's own, with anybody's nonce and key */
  :: atomic { heard_alice -> select(i : 0 .. 1);
      to_server[i] ! HELLO(ALICE, alice_challenge, N_ALICE, PK_ALICE, 0, 0, 0); i = 0 }
  :: atomic { select(i : 0 .. 1); select(nonce : 1 .. 2); select(key : 1 .. 2); select(over : 3 .. 4);
      to_server[i] ! HELLO(EVE, over, nonce, key, 0, 0, 0); i = 0; nonce = 0; key = 0; over = 0 }
  /* a session's evidence to Alice, with the half that came with it or one that Eve seals herself */
  :: atomic { select(i : 0 .. 1); heard_server[i];
      if
      :: half = session[i].own_half; key = session[i].key
      :: select(half : 1 .. 4); knows[half]; key = PK_ALICE
      fi;
      to_alice ! SERVER_HELLO(session[i].nonce, session[i].own_key, session[i].client,
                              session[i].own_nonce, session[i].key, half, key);
      i = 0; half = 0; key = 0 }
  /* Alice's last message to either session; one of Eve's own, under halves that she knows */
  :: atomic { heard_key -> select(i : 0 .. 1);
      to_server[i] ! CLIENT_KEY(K_ALICE, alice_server_key, alice_half, K_ALICE, alice_challenge,
                                SAID(ALICE, PK_ALICE), alice_server_key); i = 0 }
  :: atomic { select(i : 0 .. 1); select(half : 1 .. 4); knows[half]; select(other : 1 .. 4);
      knows[other]; select(key : 1 .. 2); select(over : 1 .. 2); select(nonce : 3 .. 4);
      to_server[i] ! CLIENT_KEY(half, session[i].own_key, other, half, nonce, SAID(over, key),
                                session[i].own_key);
      i = 0; half = 0; other = 0; key = 0; over = 0; nonce = 0 }
  /* a session's confirmation to Alice; one of Eve's own */
  :: atomic { select(i : 0 .. 1); heard_confirm[i];
      to_alice ! CONFIRM(session[i].own_half, session[i].peer_half, session[i].own_nonce,
                         SAID(session[i].client, session[i].key), session[i].own_key, 0, 0); i = 0 }
  :: atomic { select(half : 1 .. 4); knows[half]; select(other : 1 .. 4); knows[other];
      select(nonce : 2 .. 4); select(key : 3 .. 4);
      to_alice ! CONFIRM(half, other, nonce, SAID(ALICE, PK_ALICE), key, 0, 0);
      half = 0; other = 0; nonce = 0; key = 0 }
  od
}

init {
  atomic {
    session[0].client = ALICE; session[0].own_nonce = N_SERVER_A;
    session[0].own_key = PK_SERVER_A; session[0].own_half = K_SERVER_A;
    session[1].client = EVE; session[1].own_nonce = N_SERVER_E;
    session[1].own_key = PK_SERVER_E; session[1].own_half = K_SERVER_E;
    run Alice(); run Server(0); run Server(1); run Attacker()
  }
}
