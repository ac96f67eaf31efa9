// Package syncer makes the cluster follow GitLab: it reads GitLab through a Reader, has rbacsync plan, holds back what is over
// a limit, and has rbacsync/cluster write the rest. Beside that it keeps CI credentials in order through rbacsync/ci.
//
// It promises that every write carries the resourceVersion it was planned on, that a reading of everything goes on beside the
// rounds, and that what it learned outlives it (Memory, Inbox). It does not promise yet that a single thing in GitLab that
// hangs delays nothing else: a targeted reading is waited for, and drift with it.
//
// It does not know GitLab's API (a Reader does). It deletes a namespace only where that is configured, GitLab has confirmed
// that its source is gone, and the time for it is over; else a namespace loses its rights and is kept.
package syncer
