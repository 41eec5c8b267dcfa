// Package auth says who asks: it finds the identity behind a request and keeps the API tokens and web sessions.
//
// A token is 256 random bits; the control store keeps its SHA-256 only, so that it can be checked but not read back. Because
// the secret is random and long, a fast hash is enough: there is nothing to guess. Passwords, LDAP, Keystone and OIDC are not
// here yet; they will end in the same kemi.Identity.
package auth
