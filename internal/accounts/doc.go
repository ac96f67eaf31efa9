// Package accounts is what authentication knows of GitLab's users, and of the projects whose jobs get in by ID tokens. It
// learns from the Snapshots that the rounds read and answers from memory: no review of a token waits for GitLab. It judges no
// token and gives no right.
package accounts
