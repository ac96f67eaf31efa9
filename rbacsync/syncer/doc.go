// Package syncer makes the cluster follow GitLab. It hears from rbacsync/intake what is new in GitLab, has rbacsync plan, holds
// back what is over a limit, and has rbacsync/cluster write the rest. Beside that it keeps CI credentials in order through
// rbacsync/ci.
//
// It promises that every write carries the resourceVersion it was planned on, that what somebody else changes in the cluster
// and rights that expire wait for no answer of GitLab, and that what it learned outlives it (Memory, Inbox).
//
// It does not know GitLab's API. It deletes a namespace only where that is configured, GitLab has confirmed that its source is
// gone, and the time for it is over; else a namespace loses its rights and is kept.
package syncer
