"""What is refused while memory is short: commands that would take more of it for long."""

from typing import Final

from troth.core.commands import (
    AcquireLock,
    CreateCallback,
    CreateEntry,
    CreateExecution,
    CreatePromise,
    CreateSchedule,
    CreateSubscription,
    ImportPromise,
    StorePackage,
)

CREATING: Final = (
    CreatePromise,
    ImportPromise,
    CreateCallback,
    CreateSubscription,
    CreateSchedule,
    AcquireLock,
    CreateEntry,
    StorePackage,
    CreateExecution,
)
