// Package ci gives every managed namespace a Secret with a token of its CI ServiceAccount and hands what a deploy job
// needs to the GitLab projects that deploy there: with the token (variables, certificate), or without a stored
// credential (id-token, agent).
//
// It promises that the token is bound to the Secret that stores it (delete the Secret and the token dies), that it is
// replaced before 80 % of the life the API server gave it are over, that it dies when somebody who could have read it
// loses the right to deploy, and that GitLab is written to only when something changed, also across restarts. A
// project that moves from one mode to another has the new credentials before the old ones go. A failure in one namespace
// or project is a finding and does not stop the others. No token appears in an error, a finding or a log line.
//
// It does not decide which namespaces exist nor who may deploy, and it knows neither GitLab's API nor RoleBindings.
package ci
