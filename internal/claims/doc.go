// Package claims shows what a token says, without believing it. What others wrote never steers a terminal, and the token itself
// is never shown.
package claims
