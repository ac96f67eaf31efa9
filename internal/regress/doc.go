// Package regress holds one test for each of the 23 known bugs of the 2018 original, each named after its bug and
// saying in one sentence what happened then. They use the real pieces: the simulated GitLab over HTTPS, the reader,
// the rules, the engine, the CI provisioner, and client-go's in-memory API server.
//
// It promises nothing to other packages: there is only test code in it.
package regress
