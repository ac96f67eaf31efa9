// Package replicas holds the tests of several replicas of the program against a real API server: processes that are
// killed, stopped and started again while GitLab goes on changing. It has no code of its own.
package replicas
