// Package fence looks whether the cluster is ready for rights to be given in it: whether the admission policies of deploy/ hold,
// without which tenants could climb out of their rights, and whether what is configured is allowed. It changes nothing.
package fence
