// Package ci gives every managed namespace a Secret with a token of its CI ServiceAccount and hands the token to
// the GitLab project that the namespace belongs to.
//
// It promises that the token is bound to the Secret that stores it (delete the Secret and the token dies), that it
// is replaced at 80 % of the life the API server gave it, and that GitLab is written to only when something
// changed, also across restarts. A failure in one namespace or project is a finding and does not stop the others.
// No token appears in an error, a finding or a log line.
//
// It does not decide which namespaces exist nor who may deploy, and it does not know GitLab's API: a Delivery does.
package ci
