// Package gitlab reads from a GitLab instance what decides about rights (Reader), writes the CI/CD variables that
// a job needs (Variables), and understands the system hooks that say what changed (ParseSystemHook).
//
// It promises: what could not be read completely is marked as missing in the Snapshot and never looks empty;
// reading by GraphQL and by REST alone gives the same Snapshot; no token and no value of a variable appears in an
// error or a log. It does not promise that two answers belong to the same moment: GitLab has no such request, and
// the next round settles what changed while reading.
//
// It decides nothing: effective membership and roles are computed in authz.
package gitlab
