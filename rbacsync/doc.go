// Package rbacsync says what the cluster should hold by what GitLab says, and what has to be written so that it does: which
// objects (Desired), which changes (Plan) in which order (Units), which of them wait for somebody to look (Limits), and what
// is lacking (GapFinder). It does nothing itself: rbacsync/intake reads GitLab, rbacsync/cluster reads and writes Kubernetes,
// rbacsync/syncer joins them, and rbacsync/ci looks after the credentials of CI jobs.
//
// Everything in it is pure: no I/O, no clock, no goroutine. It promises that a plan does not depend on the order of its input
// and is empty once it was applied, that revocations come before anything else, and that only objects with our owner mark are
// ever changed. It does not decide who has which right: authz does.
package rbacsync
