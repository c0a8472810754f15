"""What a node says of a request that it asks again for a client, since the answer was lost.

A request that was carried out while its fence held is answered as it was then, though the fence
holds no longer (`is_again` of commands). The header changes no more than that, so a client that
sends it misleads only itself.
"""

from typing import Final

AGAIN_HEADER: Final = b"troth-asked-again"
